"""The embedding of test samples: what a network's last hidden layer makes of them, for TensorBoard's projector."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from src.callbacks.explanations.calibration import CLASS_TASKS
from src.callbacks.figures.base import (
    FigureCallback,
    find_pixel_range,
    format_percent,
    get_data_module,
    has_images,
    to_bytes,
)
from src.callbacks.figures.snapshot import capture_layer, prepare_inputs
from src.core.colours import choose_class_colour
from src.core.devices import is_main_process
from src.data.base import EVAL_BATCH_SIZE, TensorDataModule
from src.storage.files import open_atomic, write_text

CONFIG_FILE, FOLDER = "projector_config.pbtxt", "projector"  # TensorBoard looks for the first in a run's folder
THUMBNAIL_SIDE = 64  # pixels at most: TensorBoard shows sprites of up to 8,192
MAX_NAMED = 20  # classes in the legend
COLUMNS = ("index", "class", "prediction", "correct")


class Embedding(FigureCallback):
    """Test samples by the values of the network's last hidden layer, drawn along their two principal components.

    For models that predict classes with a fully connected layer or a convolution as the last one. The projector shows
    all dimensions: ``projector_config.pbtxt`` in the run's folder, ``projector/`` with values, classes and thumbnails.

    Args:
        count: maximum number of samples, drawn at random, always the same ones.
    """

    name = "embedding"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = get_data_module(trainer)
        if getattr(data, "test_set", None) is None or data.task not in CLASS_TASKS or not hasattr(pl_module, "predict"):
            return
        assert data.test_set is not None
        order = torch.randperm(data.test_set.size, generator=torch.Generator().manual_seed(0))
        chosen = order[: self.count].sort().values
        samples = data.test_set.take(chosen.to(data.test_set.device))
        features = compute_features(pl_module, data, samples.inputs)
        if features is None or min(features[0].shape) < 2 or not features[0].isfinite().all():
            return
        values, predicted = features
        targets = samples.targets.cpu()
        if is_main_process():
            names = data.class_names
            rows = zip(chosen.tolist(), targets.tolist(), predicted.tolist(), strict=True)
            table = [(index, names[true], names[guess], true == guess) for index, true, guess in rows]
            images = samples.inputs if has_images(trainer) else None
            write_projector_files(Path(trainer.default_root_dir), values.numpy(), table, images)
        self.show(trainer, (5.6, 5.0), values, targets, data.class_names)

    def draw(self, figure: Figure, values: Tensor, targets: Tensor, names: tuple[str, ...]) -> None:
        positions, shares = compute_principal_components(values)
        axis = figure.subplots()
        for number, (name, marker) in enumerate(zip(names, "os^DvP*X" * len(names), strict=False)):
            x, y = positions[targets == number].T.numpy()
            colour = choose_class_colour(number)
            axis.scatter(x, y, s=14, color=colour, marker=marker, edgecolors="0.2", linewidths=0.3, label=name)
        first, second = [format_percent(share, 0) for share in shares.tolist()]
        axis.set(xlabel=f"first principal component ({first} of the variance)", ylabel=f"second ({second})")
        axis.set_title("Test samples in the last hidden layer")
        if len(names) <= MAX_NAMED:
            figure.legend(loc="outside right upper", fontsize=9)


def compute_features(model: LightningModule, data: TensorDataModule, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the values that reach the network's last layer (N, D) and the predicted classes (N,), on the CPU.

    The last layer is the last fully connected one, or the last convolution where there is none; the values of maps are
    averaged over their pixels. ``None`` if there is no such layer.
    """
    for kind in (nn.Linear, nn.Conv2d):
        if layers := [module for module in getattr(model, "net", model).modules() if isinstance(module, kind)]:
            break
    else:
        return None
    parts = []
    for batch in inputs.split(EVAL_BATCH_SIZE):
        captured = capture_layer(model, layers[-1], prepare_inputs(model, data, batch))
        if captured is None or captured[0].ndim not in (2, 4) or captured[2].ndim != 2:
            return None
        values, _, outputs = captured
        predicted: Tensor = model.predict(outputs)  # type: ignore[operator]
        parts.append((values.flatten(2).mean(dim=2) if values.ndim == 4 else values, predicted))
    joined = [torch.cat(each).cpu() for each in zip(*parts, strict=True)]
    return joined[0].float(), joined[1]


def compute_principal_components(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions (N, 2) of values (N, D) along their two principal components, and the shares (2,) of these.

    A share is the part of the variance along the component.
    """
    centred = (values - values.mean(dim=0)).double()
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    shares = sizes.square() / sizes.square().sum().clamp(min=1e-300)
    return left[:, :2] * sizes[:2], shares[:2]


def write_projector_files(
    folder: Path, values: np.ndarray, rows: Sequence[Iterable[object]], images: Tensor | None
) -> None:
    """Write what TensorBoard's projector shows for a run; all paths in the files are relative to the run's folder.

    Args:
        folder: the run's.
        values: of each sample, (N, D).
        rows: what is shown of each sample, in the order of `COLUMNS`.
        images: the samples as images (N, C, H, W), or ``None`` if they are none.
    """
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="last_hidden_layer", tensor_path=f"{FOLDER}/tensors.tsv", metadata_path=f"{FOLDER}/metadata.tsv"
    )
    with open_atomic(folder / embedding.tensor_path) as file:
        np.savetxt(file, values, fmt="%.6g", delimiter="\t")
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    writer.writerows([[" ".join(str(cell).split()) for cell in row] for row in (COLUMNS, *rows)])
    write_text(folder / embedding.metadata_path, table.getvalue())
    if images is not None:
        thumbnails = make_thumbnails(images)
        embedding.sprite.image_path = f"{FOLDER}/sprite.png"
        embedding.sprite.single_image_dim.extend([thumbnails.shape[3], thumbnails.shape[2]])
        sprite = make_grid(thumbnails, nrow=math.ceil(math.sqrt(len(thumbnails))), padding=0)
        with open_atomic(folder / embedding.sprite.image_path) as file:
            Image.fromarray(sprite.permute(1, 2, 0).numpy()).save(file, format="png")
    write_text(folder / CONFIG_FILE, text_format.MessageToString(config))  # last: it names the others


def make_thumbnails(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) as uint8, scaled down to at most 64 pixels on a side."""
    pixels = to_bytes(images, *find_pixel_range(images)).cpu()
    factor = THUMBNAIL_SIDE / max(pixels.shape[2:])
    if factor >= 1:
        return pixels
    size = [max(1, round(side * factor)) for side in pixels.shape[2:]]
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
