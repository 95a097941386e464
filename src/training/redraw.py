"""A finished run's pictures, drawn from what lies in its folder as the run itself would have drawn them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from src.callbacks.figures.base import FigureCallback
from src.callbacks.history import History
from src.callbacks.monitor import find_judge
from src.loggers.opening import find_start
from src.models.steps import same_count
from src.storage.configs import open_config
from src.sweeps.store.runs import read_history
from src.training.build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_model,
    build_trainer,
    load_data,
    prepare,
)
from src.training.checkpoints import RunCheckpoint, chosen_checkpoint, load_weights, read_checkpoint
from src.training.restoring import refusing
from src.training.resume import check_parts
from src.training.validation.abilities import tests


def draw_figures(folder: Path, packages: tuple[str, ...] = ()) -> None:
    """Draw the pictures of the run in a folder: into ``figures/`` and, if it keeps events for TensorBoard, into these.

    The run's own callbacks draw them, from ``history.csv`` and from one evaluation on the test set with the weights
    kept. What they noted step by step while training they have from ``last.ckpt``; what is not there is not drawn.

    Args:
        folder: the run's; nothing in it changes but the pictures, and these all at once.
        packages: those beside this project's whose classes the run's config may name.

    Raises:
        InputError: if the run's config, checkpoint, history or data are missing or damaged.
    """
    cfg = for_this_machine(open_config(folder, packages, writing=("callbacks", "logger")))
    kind = prepare(cfg)
    seed_everything(cfg.seed, verbose=False)  # the random images of `AugmentedBatch` are those of the run
    data = build_data(cfg)
    model = build_model(cfg, data, kind)
    load_weights(model, chosen_checkpoint(folder, None))
    load_data(data)
    with TemporaryDirectory(prefix=".figures-", dir=folder) as place:
        trainer = trainer_at_the_end(cfg, kind, folder, Path(place), data)
        draw(trainer, model, data, tests(cfg, data))
        move(Path(place), folder)


def for_this_machine(run: DictConfig) -> DictConfig:
    """A run's config for one process here, wherever and by however many it was trained; of its loggers TensorBoard."""
    accelerator = "cpu" if run.trainer.accelerator == "cpu" else "auto"
    here = {"accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto", "profiler": None}
    events = {name: each for name, each in run.logger.items() if "TensorBoard" in each._target_}
    for settings in events.values():
        settings._target_ = "src.training.redraw.TensorBoardPictures"
    cfg = OmegaConf.merge(run, {"trainer": here, "resume": None, "ckpt_path": None})
    cfg.logger = events
    assert isinstance(cfg, DictConfig)
    return cfg


class TensorBoardPictures(TensorBoardLogger):
    """Events for pictures alone: the run has logged its metrics and settings itself."""

    def log_metrics(self, *args: Any, **settings: Any) -> None:
        """Log nothing."""

    def log_hyperparams(self, *args: Any, **settings: Any) -> None:
        """Log nothing."""

    def save(self) -> None:
        """Write no settings."""


def trainer_at_the_end(cfg: DictConfig, kind: str, folder: Path, place: Path, data: LightningDataModule) -> Trainer:
    """A trainer as it was when the run's training ended, its callbacks those that draw; it writes into ``place``."""
    history = History()
    history.rows = read_history(folder / "history.csv")
    history.saved = len(history.rows)
    pictures = [each for each in build_callbacks(cfg, data) if isinstance(each, FigureCallback)]
    checkpoint = RunCheckpoint(folder / "checkpoints", *find_judge(cfg, data), history)
    loggers = build_loggers(cfg, find_start(place, None))
    trainer = build_trainer(cfg, kind, place, [*pictures, history, checkpoint], loggers)
    last = folder / "checkpoints" / "last.ckpt"
    path = last if last.is_file() else chosen_checkpoint(folder, None)
    ended = read_checkpoint(path)
    check_parts(ended, path)
    with refusing(path):
        trainer.fit_loop.load_state_dict(ended["loops"]["fit_loop"])
        for callback in pictures:
            if state := ended["callbacks"].get(callback.state_key):
                callback.load_state_dict(state)
    same_count(trainer)
    return trainer


def draw(trainer: Trainer, model: LightningModule, data: LightningDataModule, tested: bool) -> None:
    """Call what draws before and after training, then what draws by the test, if the run has ``tested``."""
    trainer.datamodule = data  # type: ignore[attr-defined]
    pictures = [each for each in trainer.callbacks if isinstance(each, FigureCallback)]  # type: ignore[attr-defined]
    for hook in ("on_fit_start", "on_fit_end"):
        for callback in pictures:
            getattr(callback, hook)(trainer, model)
    if tested:
        trainer.test(model, datamodule=data, verbose=False)


def move(place: Path, folder: Path) -> None:
    """Move all files from one folder into another, each to the same place in it."""
    for path in sorted(place.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
