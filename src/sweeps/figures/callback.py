"""Draw the figures over a sweep's runs, when it ends or when ``python -m src.compare`` is called."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.cli.messages import TRACEBACKS, find_input_error
from src.core.commands import format_command
from src.core.disk import find_storage_error
from src.core.errors import InputError
from src.storage.moved import update_names
from src.storage.plain import read_yaml
from src.storage.trust import Rules, check_trust, format_trust, read_packages
from src.sweeps.store.runs import Run, read_runs, select_runs_with_metrics

log = logging.getLogger(__name__)


class DrawFigures(Callback):
    """A Hydra callback that draws a sweep's figures when all of its runs are done.

    Args:
        pictures: the figures' settings by name; each has the ``_target_`` of a `SweepFigure`.
    """

    def __init__(self, pictures: dict[str, Any]) -> None:
        self.pictures = pictures

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder, packages = Path(config.hydra.sweep.dir), read_packages(config.get("trust"))
        try:
            files, errors = draw_figures(folder, self.pictures, packages)
        # All runs are saved at this point; Hydra would turn an exception into a two-line warning.
        except Exception as error:
            if fault := find_storage_error(error):
                again = f"try again: {format_command('src.compare', [str(folder)])}"
                sys.exit(f"error: {fault.with_advice('the runs are complete', again)}")
            files, errors = [], [format_error(error)]
        for path in files:
            log.info("figure: %s", path)
        for message in errors:
            command = f"{format_command('src.compare', [str(folder)])}{format_trust(packages)}"
            log.error("error: %s (try again: %s)", message, command)


def draw_figures(
    folder: Path, figures: dict[str, Any], packages: tuple[str, ...], runs: list[Run] | None = None
) -> tuple[list[Path], list[str]]:
    """Draw the figures over a sweep's runs, into ``figures/`` and for TensorBoard.

    Args:
        folder: the sweep's folder.
        figures: the figures' settings by name.
        packages: packages outside this project whose classes the runs' configs may name.
        runs: the sweep's runs; ``None``: they are read now.

    Returns:
        The paths of the files, and an error message for each figure that cannot be drawn.

    Raises:
        InputError: if there are no runs to draw.
    """
    from torch.utils.tensorboard import SummaryWriter

    from src.callbacks.figures.base import TAG, draw_figure, save_png
    from src.training.build import instantiate_checked

    runs = select_runs_with_metrics(folder, read_runs(folder) if runs is None else runs)
    files, errors = [], []
    with SummaryWriter(str(folder)) as writer:
        for name, settings in figures.items():
            path = folder / "figures" / f"{name}.png"
            try:
                picture = instantiate_checked(f"figure {name}", settings, name=name)
                picture.packages = packages
                pixels = draw_figure(picture.get_size(runs), picture.draw, runs)
                save_png(pixels, path)
                writer.add_image(f"{TAG}/{name}", pixels, dataformats="HWC")
                files.append(path)
            except Exception as error:  # the other figures can still be drawn
                if TRACEBACKS or find_storage_error(error):
                    raise
                errors.append(f"{path} cannot be drawn: {format_error(error)}")
    return files, errors


def format_error(error: Exception) -> str:
    """Return an error's message in one line."""
    return str(find_input_error(error) or " ".join(f"{type(error).__name__}: {error}".split()))


def read_configured_figures(folder: Path, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of the figures that a sweep was started with, by name; there may be none.

    Args:
        folder: the sweep's folder, which is not trusted.
        packages: packages outside this project whose classes it may name.

    Raises:
        InputError: if the folder is not that of a sweep, is damaged, or names a class that it must not name.
    """
    path = folder / "multirun.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not a sweep's folder ({path} is missing)")
    pictures = update_names(_extract_figures(read_yaml(path)))
    for name, settings in pictures.items():
        if not re.fullmatch(r"\w[\w-]*", str(name)):  # the name becomes a file name
            raise InputError(f"{path}: {name} is not a valid name for a figure")
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise InputError(f"{path} is damaged: the figure {name} has no _target_")
        if "${" in str(settings):
            raise InputError(f"{path}: the figure {name} refers to other settings; write their values instead")
    if pictures:
        from src.sweeps.figures.base import SweepFigure  # imports matplotlib

        rules = Rules({"pictures.*": SweepFigure}, writing_sections=("pictures",))
        check_trust({"pictures": pictures}, path, rules, packages)
    return pictures


def _extract_figures(content: Any) -> dict[str, Any]:
    """Return the settings of the figures in the content of ``multirun.yaml``, or {} if there are none."""
    for key in ("hydra", "callbacks", "pictures", "pictures"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}
