"""When the pictures over a sweep's runs are drawn: as it ends, or whenever ``python -m src.compare`` asks."""

import logging
import sys
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.cli import TRACEBACKS
from src.core.storage import find_fault
from src.errors import InputError
from src.messages import input_error
from src.sweeps.runs import read_yaml, with_metrics

log = logging.getLogger(__name__)


class DrawPictures(Callback):
    """Draws a sweep preset's pictures when all of its runs are done.

    Args:
        pictures: their settings by name; each has the ``_target_`` of a `SweepPicture`.
    """

    def __init__(self, pictures: dict[str, Any]) -> None:
        self.pictures = pictures

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            files, errors = draw(folder, self.pictures)
        except Exception as error:  # the runs are done and kept, and Hydra would make a warning of two lines of it
            if fault := find_fault(error):
                again = f"try again: python -m src.compare {quote(str(folder))}"
                sys.exit(f"error: {fault.completed('the runs are whole', again)}")
            files, errors = [], [why(error)]
        for path in files:
            log.info("picture: %s", path)
        for told in errors:
            log.error("error: %s (try again: python -m src.compare %s)", told, quote(str(folder)))


def draw(folder: Path, pictures: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """Draw the pictures over a sweep's runs, into ``figures/`` and for TensorBoard.

    Returns:
        The files, and for each picture that cannot be drawn a line that says why.

    Raises:
        InputError: if there are no runs to draw.
    """
    from torch.utils.tensorboard import SummaryWriter

    from src.build import make
    from src.callbacks.figure import drawn, save

    runs, files, errors = with_metrics(folder), [], []
    with SummaryWriter(str(folder)) as writer:
        for name, settings in pictures.items():
            path = folder / "figures" / f"{name}.png"
            try:
                picture = make(f"picture {name}", settings, name=name)
                pixels = drawn(picture.size(runs), picture.draw, runs)
                save(pixels, path)
                writer.add_image(f"figures/{name}", pixels, dataformats="HWC")
                files.append(path)
            except Exception as error:  # the other pictures are drawn all the same
                if TRACEBACKS or find_fault(error):
                    raise
                errors.append(f"{path} cannot be drawn: {why(error)}")
    return files, errors


def why(error: Exception) -> str:
    """An error in one line."""
    return str(input_error(error) or " ".join(f"{type(error).__name__}: {error}".split()))


def configured(folder: Path) -> dict[str, Any]:
    """The pictures that a sweep was started with, by name; often none.

    Raises:
        InputError: if the folder is not that of a sweep.
    """
    path = folder / "multirun.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no sweep there ({path} is missing)")
    pictures = OmegaConf.select(OmegaConf.create(read_yaml(path)), "hydra.callbacks.pictures.pictures")
    return pictures or {}
