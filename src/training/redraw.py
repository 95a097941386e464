"""Draw a finished run's figures afterwards, from the files in its folder, as the run itself would have drawn them."""

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
    """Draw the figures of the run in a folder, into ``figures/`` and into its TensorBoard events, if it keeps any.

    The run's own callbacks draw them, from ``history.csv`` and from one evaluation on the test set with the selected
    weights. What the callbacks recorded at each step of training is read from ``last.ckpt``. A figure whose data are
    missing is not drawn.

    Args:
        folder: the run's folder; only the figures in it change, and they are moved there together when all are drawn.
        packages: packages, besides this project's, whose classes the run's config may name.

    Raises:
        InputError: if the run's config, checkpoint, history or data are missing or damaged.
    """
    cfg = for_this_machine(open_config(folder, packages, writing=("callbacks", "logger")))
    kind = prepare(cfg)
    seed_everything(cfg.seed, verbose=False)  # so that `AugmentedBatch` draws the same images as the run
    data = build_data(cfg)
    model = build_model(cfg, data, kind)
    load_weights(model, chosen_checkpoint(folder, None))
    load_data(data)
    with TemporaryDirectory(prefix=".figures-", dir=folder) as directory:
        trainer = trainer_at_the_end(cfg, kind, folder, Path(directory), data)
        draw(trainer, model, data, tests(cfg, data))
        move(Path(directory), folder)


def for_this_machine(run: DictConfig) -> DictConfig:
    """Adapt a run's config to one process on this machine; of its loggers only TensorBoard remains."""
    accelerator = "cpu" if run.trainer.accelerator == "cpu" else "auto"
    overrides = {"accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto", "profiler": None}
    events = {name: logger for name, logger in run.logger.items() if "TensorBoard" in logger._target_}
    for settings in events.values():
        settings._target_ = "src.training.redraw.TensorBoardPictures"
    cfg = OmegaConf.merge(run, {"trainer": overrides, "resume": None, "ckpt_path": None})
    cfg.logger = events
    assert isinstance(cfg, DictConfig)
    return cfg


class TensorBoardPictures(TensorBoardLogger):
    """TensorBoard logger for figures only: the run has already logged its metrics and settings."""

    def log_metrics(self, *args: Any, **settings: Any) -> None:
        """Log nothing."""

    def log_hyperparams(self, *args: Any, **settings: Any) -> None:
        """Log nothing."""

    def save(self) -> None:
        """Write nothing."""


def trainer_at_the_end(cfg: DictConfig, kind: str, folder: Path, place: Path, data: LightningDataModule) -> Trainer:
    """Build a trainer in the state at the end of the run's training, with the callbacks that draw figures.

    Args:
        cfg: the run's config, adapted to this machine.
        kind: the device kind.
        folder: the run's folder.
        place: the directory that the trainer writes to.
        data: the run's data module.
    """
    history = History()
    history.rows = read_history(folder / "history.csv")
    history.saved = len(history.rows)
    figures = [item for item in build_callbacks(cfg, data) if isinstance(item, FigureCallback)]
    checkpoint = RunCheckpoint(folder / "checkpoints", *find_judge(cfg, data), history)
    loggers = build_loggers(cfg, find_start(place, None))
    trainer = build_trainer(cfg, kind, place, [*figures, history, checkpoint], loggers)
    last = folder / "checkpoints" / "last.ckpt"
    path = last if last.is_file() else chosen_checkpoint(folder, None)
    saved = read_checkpoint(path)
    check_parts(saved, path)
    with refusing(path):
        trainer.fit_loop.load_state_dict(saved["loops"]["fit_loop"])
        for callback in figures:
            if state := saved["callbacks"].get(callback.state_key):
                callback.load_state_dict(state)
    same_count(trainer)
    return trainer


def draw(trainer: Trainer, model: LightningModule, data: LightningDataModule, tested: bool) -> None:
    """Call the hooks that draw before and after training, then run the test, if the run has one (``tested``)."""
    trainer.datamodule = data  # type: ignore[attr-defined]
    figures = [item for item in trainer.callbacks if isinstance(item, FigureCallback)]  # type: ignore[attr-defined]
    for hook in ("on_fit_start", "on_fit_end"):
        for callback in figures:
            getattr(callback, hook)(trainer, model)
    if tested:
        trainer.test(model, datamodule=data, verbose=False)


def move(place: Path, folder: Path) -> None:
    """Move all files from one folder into another, keeping their relative paths."""
    for path in sorted(place.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
