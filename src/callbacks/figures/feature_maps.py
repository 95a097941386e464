"""Figure of the feature maps of one image: through an edge kernel, and through the network's first convolution."""

from typing import NamedTuple

import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from src.callbacks.figures.base import (
    FigureCallback,
    draw_image,
    find_pixel_range,
    get_data_module,
    has_images,
    to_bytes,
)
from src.callbacks.figures.first_layer import draw_signed, find_strongest
from src.models.layers import ACTIVATIONS

# Kirsch's kernel for edges that are brighter above (1971, Computers and Biomedical Research 4, 315-328).
KIRSCH = torch.tensor([[5.0, 5.0, 5.0], [-3.0, 0.0, -3.0], [-3.0, -3.0, -3.0]])
CELL = 1.6  # inches
ACTIVATION_TYPES = tuple(ACTIVATIONS.values())
LAYER_TYPES = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, *ACTIVATION_TYPES)


class Stage(NamedTuple):
    """The title of an operation and the maps (N, H, W) that it computes."""

    title: str
    maps: Tensor


class FirstBlock(NamedTuple):
    """The first convolution's kernels (N, C, h, w), whether they are trained, and the stages from it on."""

    kernels: Tensor
    trained: bool
    stages: list[Stage]


class FeatureMaps(FigureCallback):
    """The feature maps of a test image, from an edge kernel and from the network's first convolution.

    The first row shows convolution with Kirsch's kernel, ReLU and 2×2 max pooling. Below are the kernels with the
    strongest responses and the maps that the network computes with them. For networks (``net``) whose first convolution
    takes 1 or 3 channels.

    Args:
        count: maximum number of kernels, ≥ 1.
    """

    name = "feature_maps"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, net = get_data_module(trainer), getattr(pl_module, "net", None)
        if getattr(data, "test_set", None) is None or net is None or not has_images(trainer):
            return
        assert data.test_set is not None
        image = data.test_set.inputs[:1]  # (1, C, H, W)
        if min(image.shape[2:]) < 4 or not any(isinstance(module, nn.Conv2d) for module in net.modules()):
            return
        block = compute_first_block(net, data.transform(image.to(pl_module.device)).to(pl_module.dtype))
        if block is None or block.kernels.shape[1] not in (1, 3):
            return
        units = find_strongest(block.stages[0].maps, self.count)
        stages = [Stage(title, maps[units]) for title, maps in block.stages]
        titles = [f"{'learned' if block.trained else 'fixed'} kernel {unit}" for unit in units.tolist()]
        size = (CELL * (1 + max(len(stages), 3)), CELL * 1.2 * (1 + len(units)))
        pixels = to_bytes(image, *find_pixel_range(image))[0]
        self.show(trainer, size, pixels, block.kernels[units], titles, stages)

    def draw(self, figure: Figure, image: Tensor, kernels: Tensor, titles: list[str], stages: list[Stage]) -> None:
        edges = compute_kirsch_stages(image.float().mean(dim=0) / 255)
        axes = figure.subplots(1 + len(titles), 1 + max(len(stages), len(edges)), squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        draw_image(axes[0, 0], image)
        _annotate_axis(axes[0, 0], "test image", image)
        _draw_maps(list(axes[0, 1:]), edges, 0)
        limit = float(kernels.abs().max())
        for row, (kernel, title) in enumerate(zip(kernels, titles, strict=True)):
            draw_signed(axes[1 + row, 0], kernel, limit)
            _annotate_axis(axes[1 + row, 0], title, kernel)
            _draw_maps(list(axes[1 + row, 1:]), stages, row)
        figure.suptitle("Maps: red above 0, white 0, blue below 0; each on its own scale", fontsize=9)


def _draw_maps(axes: list[Axes], stages: list[Stage], unit: int) -> None:
    """Draw one unit's maps, one axis per stage."""
    for axis, (title, maps) in zip(axes, stages, strict=False):
        draw_signed(axis, maps[unit : unit + 1], float(maps[unit].abs().max()))
        _annotate_axis(axis, title, maps[unit])


def _annotate_axis(axis: Axes, title: str, values: Tensor) -> None:
    """Write the title above an axis and the values' shape below it."""
    axis.set_title(title, fontsize=8, pad=3)
    axis.set_xlabel("×".join(map(str, values.shape)), fontsize=8, labelpad=2)


def compute_kirsch_stages(image: Tensor) -> list[Stage]:
    """Filter a grey image (H, W) with Kirsch's kernel (no padding), then apply ReLU and 2×2 max pooling."""
    response = F.conv2d(image[None, None], KIRSCH[None, None])[0]  # (1, H−2, W−2)
    rectified = response.relu()
    pooled = F.max_pool2d(rectified, 2)  # (1, (H−2)/2, (W−2)/2)
    return [Stage("Kirsch's edge kernel", response), Stage("ReLU", rectified), Stage("2×2 max pooling", pooled)]


def compute_first_block(net: nn.Module, inputs: Tensor) -> FirstBlock | None:
    """Compute a network's maps of one image (1, C, H, W), from its first convolution up to its second.

    The first stage is the convolution's response. Activations and max poolings follow, up to three stages in all.
    A batch norm is named in the title of the stage after it. Returns ``None`` if the network has no convolution.
    """
    calls = _record_layer_outputs(net, inputs)
    convolutions = [index for index, (module, _) in enumerate(calls) if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return None
    convolution, response = calls[convolutions[0]]
    stages, normed = [Stage("its response", response)], False
    for module, maps in calls[convolutions[0] + 1 : convolutions[1] if len(convolutions) > 1 else None]:
        if isinstance(module, nn.BatchNorm2d):
            normed = True
        else:
            stages.append(Stage("batch norm, " * normed + _describe_layer(module), maps))
            normed = False
    weight: Tensor = convolution.weight  # type: ignore[assignment]
    return FirstBlock(weight.detach().float().cpu(), weight.requires_grad, stages[:3])


@torch.no_grad()
def _record_layer_outputs(net: nn.Module, inputs: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Run the network and return the layers that compute maps, in call order, with their outputs (N, H, W).

    These are convolutions, batch norms, activations and max poolings.
    """
    calls: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 4:  # cloned, for a later layer may change it in place
            calls.append((module, output[0].float().cpu().clone()))

    hooks = [module.register_forward_hook(keep) for module in net.modules() if isinstance(module, LAYER_TYPES)]
    try:
        net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _describe_layer(module: nn.Module) -> str:
    if not isinstance(module, nn.MaxPool2d):
        return type(module).__name__
    size = module.kernel_size
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}×{width} max pooling"
