"""What in an image a network's prediction rests on: Grad-CAM, or gradients for networks without convolutions."""

from textwrap import fill
from typing import NamedTuple

import matplotlib
import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from src.callbacks.explanations.calibration import CLASS_TASKS
from src.callbacks.figures.base import (
    FigureCallback,
    draw_image_grid,
    find_pixel_range,
    format_percent,
    get_data_module,
    has_images,
    to_bytes,
)
from src.callbacks.figures.predictions import compute_class_probabilities
from src.callbacks.figures.snapshot import eval_mode, prepare_inputs
from src.callbacks.figures.training_images import select_class_balanced
from src.core.extras import require_package

COLUMNS = 3  # of images; each has its map next to it
GREY_PART = 0.4  # of an overlay: the image; the rest is the map
BATCH_SIZE = 8  # images whose gradients are computed together: each keeps all of a network's activations
TITLE_WIDTH = 44  # characters per line of a title


class Saliency(NamedTuple):
    """Maps (N, H, W) of what predictions rest on, 0 to 1 each, and the method that computed them."""

    maps: Tensor
    method: str


class SaliencyMaps(FigureCallback):
    """Test images, each next to what its prediction rests on; with the weights that are tested.

    See `compute_saliency`; needs Captum.

    Args:
        count: number of images, ≥ 1; as equally divided among the classes as possible.
    """

    name = "saliency"

    def __init__(self, count: int) -> None:
        require_captum("callbacks.saliency")
        self.count = count

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = get_data_module(trainer)
        if getattr(data, "test_set", None) is None or not has_images(trainer) or data.task not in CLASS_TASKS:
            return
        assert data.test_set is not None
        images, targets = data.test_set.take(select_class_balanced(data.test_set.targets, self.count))
        inputs = prepare_inputs(pl_module, data, images)
        saliency = compute_saliency(pl_module, inputs)
        if saliency is None:
            return
        with eval_mode(pl_module):
            probabilities = compute_class_probabilities(pl_module(inputs).cpu())
        names = data.class_names
        titles = [
            fill(f"{names[true]}, predicted {names[guess]} ({format_percent(share, 1)})", TITLE_WIDTH)
            for true, guess, share in zip(
                targets.tolist(), probabilities.argmax(dim=1).tolist(), probabilities.amax(dim=1).tolist(), strict=True
            )
        ]
        rows = -(-len(images) // COLUMNS)
        self.show(trainer, (COLUMNS * 2.8, rows * 1.6 + 0.4), images.cpu(), saliency, titles)

    def draw(self, figure: Figure, images: Tensor, saliency: Saliency, titles: list[str]) -> None:
        figure.suptitle(f"Test images, and what their predictions rest on ({saliency.method})")
        draw_image_grid(figure, attach_overlays(images, saliency), titles, COLUMNS)


def require_captum(setting: str) -> None:
    """Refuse a setting that needs Captum if that is not installed."""
    require_package("captum", "explain", setting)


def compute_saliency(model: LightningModule, inputs: Tensor) -> Saliency | None:
    """Return what in images the model's predictions rest on, on the CPU; ``None`` if its outputs have no gradient.

    The method is Grad-CAM (Selvaraju et al., 2017) at the last convolution, scaled up to the image. A network without
    convolutions gets the magnitude of the gradient at each pixel, the largest of its channels (Simonyan et al., 2014).
    Explained is the largest output; if there is only one, what moves it away from 0. Each map is divided by its
    maximum.

    Args:
        model: a model with outputs (N, K).
        inputs: prepared for the network, (N, C, H, W).
    """
    if not any(True for _ in model.parameters()):  # nearest neighbours, for example
        return None
    from captum.attr import LayerGradCam
    from captum.attr import Saliency as Gradient

    def score(images: Tensor) -> Tensor:
        outputs: Tensor = model(images)
        return torch.cat([-outputs, outputs], dim=1) if outputs.shape[1] == 1 else outputs

    maps = []
    # Lightning tests in inference mode, in which no gradient can be computed.
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        outputs, layer = _find_last_convolution(model, inputs[:1].clone().requires_grad_())
        if outputs.ndim != 2 or not outputs.requires_grad:
            return None
        for part in [each.clone().requires_grad_() for each in inputs.split(BATCH_SIZE)]:
            classes = score(part).argmax(dim=1)
            if layer is None:
                found = Gradient(score).attribute(part, classes).amax(dim=1, keepdim=True)
            else:
                found = LayerGradCam(score, layer).attribute(part, classes, relu_attributions=True)
                found = F.interpolate(found, size=part.shape[2:], mode="bilinear")
            maps.append(found[:, 0].detach().float().cpu())
    joined = torch.cat(maps)
    highest = joined.amax(dim=(1, 2), keepdim=True)
    return Saliency(
        joined / highest.clamp(min=torch.finfo(joined.dtype).tiny), "gradient" if layer is None else "Grad-CAM"
    )


def _find_last_convolution(model: nn.Module, inputs: Tensor) -> tuple[Tensor, nn.Module | None]:
    """Return the model's outputs for inputs, and the last convolution that it calls with maps of several pixels.

    Maps of a single pixel only weigh channels, as in squeeze-and-excitation. Convolutions whose kernels do not overlap
    only cut an image into patches, as at the start of a transformer.
    """
    calls: list[nn.Module] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        is_patchwise = module.stride == module.kernel_size != (1, 1)
        if output.ndim == 4 and output.shape[2:].numel() > 1 and not is_patchwise:
            calls.append(module)

    hooks = [each.register_forward_hook(keep) for each in model.modules() if isinstance(each, nn.Conv2d)]
    try:
        outputs: Tensor = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, calls[-1] if calls else None


def attach_overlays(images: Tensor, saliency: Saliency) -> Tensor:
    """Return each image with, on its right, the same in grey under its map: uint8 (N, 3, H, 2·W + a gap).

    Args:
        images: (N, C, H, W) with one or three channels, as the data set stores them.
        saliency: of the same images; its maps are scaled to their size.
    """
    pixels = to_bytes(images, *find_pixel_range(images)).cpu()
    maps = F.interpolate(saliency.maps[:, None], size=pixels.shape[2:], mode="bilinear")[:, 0]
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](maps.numpy())[..., :3]).permute(0, 3, 1, 2)
    grey = pixels.float().mean(dim=1, keepdim=True) / 255
    overlays = (255 * (GREY_PART * grey + (1 - GREY_PART) * colours)).round().to(torch.uint8)
    gap = torch.full((*overlays.shape[:3], -(-pixels.shape[3] // 16)), 255, dtype=torch.uint8)
    return torch.cat([pixels.expand(-1, 3, -1, -1), gap, overlays], dim=3)
