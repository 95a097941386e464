"""Draw a finished run's figures afterwards, from the files in its folder, as the run itself would have drawn them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from src.callbacks.figures.base import FigureCallback
from src.callbacks.history import History
from src.callbacks.monitor import resolve_monitor
from src.loggers.opening import make_run_start
from src.models.chunked_steps import sync_step_counters
from src.storage.configs import open_config
from src.storage.schema import read_history
from src.storage.weights import load_weights, read_checkpoint
from src.training.build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_model,
    build_trainer,
    load_data,
    prepare_machine,
)
from src.training.checkpointing.checkpoint import RunCheckpoint, find_checkpoint
from src.training.checkpointing.restore import explain_restore_errors
from src.training.checkpointing.resume import check_parts
from src.training.validation.abilities import should_test


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
    cfg = _make_local_config(open_config(folder, packages, writing_sections=("callbacks", "logger")))
    kind = prepare_machine(cfg)
    seed_everything(cfg.seed, verbose=False)  # so that `AugmentedBatch` draws the same images as the run
    data = build_data(cfg)
    model = build_model(cfg, data, kind)
    load_weights(model, find_checkpoint(folder, None))
    load_data(data)
    with TemporaryDirectory(prefix=".figures-", dir=folder) as directory:
        trainer = _build_finished_trainer(cfg, kind, folder, Path(directory), data)
        _run_figure_hooks(trainer, model, data, should_test(cfg, data))
        _move_files(Path(directory), folder)


def _make_local_config(run: DictConfig) -> DictConfig:
    """Adapt a run's config to one process on this machine; of its loggers only TensorBoard remains."""
    accelerator = "cpu" if run.trainer.accelerator == "cpu" else "auto"
    overrides = {"accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto", "profiler": None}
    events = {name: logger for name, logger in run.logger.items() if "TensorBoard" in logger._target_}
    for settings in events.values():
        settings._target_ = "src.training.redraw.TensorBoardFigures"
    cfg = OmegaConf.merge(run, {"trainer": overrides, "resume": None, "ckpt_path": None})
    cfg.logger = events
    assert isinstance(cfg, DictConfig)
    return cfg


class TensorBoardFigures(TensorBoardLogger):
    """TensorBoard logger for figures only: the run has already logged its metrics and settings."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing."""

    def save(self) -> None:
        """Write nothing."""


def _build_finished_trainer(
    cfg: DictConfig, device_kind: str, folder: Path, output_dir: Path, data: LightningDataModule
) -> Trainer:
    """Build a trainer in the state at the end of the run's training, with the callbacks that draw figures.

    Args:
        cfg: the run's config, adapted to this machine.
        device_kind: the device kind.
        folder: the run's folder.
        output_dir: the directory that the trainer writes to.
        data: the run's data module.
    """
    history = History()
    history.rows = read_history(folder / "history.csv")
    history.saved_count = len(history.rows)
    figures = [item for item in build_callbacks(cfg, data) if isinstance(item, FigureCallback)]
    checkpoint = RunCheckpoint(folder / "checkpoints", *resolve_monitor(cfg, data), history)
    loggers = build_loggers(cfg, make_run_start(output_dir, None))
    trainer = build_trainer(cfg, device_kind, output_dir, [*figures, checkpoint], loggers)
    last = folder / "checkpoints" / "last.ckpt"
    path = last if last.is_file() else find_checkpoint(folder, None)
    saved = read_checkpoint(path)
    check_parts(saved, path)
    with explain_restore_errors(path):
        trainer.fit_loop.load_state_dict(saved["loops"]["fit_loop"])
        for callback in figures:
            if state := saved["callbacks"].get(callback.state_key):
                callback.load_state_dict(state)
    sync_step_counters(trainer)
    return trainer


def _run_figure_hooks(trainer: Trainer, model: LightningModule, data: LightningDataModule, has_test: bool) -> None:
    """Call the hooks that draw before and after training, then run the test, if the run has one (``has_test``)."""
    trainer.datamodule = data  # type: ignore[attr-defined]
    figures = [item for item in trainer.callbacks if isinstance(item, FigureCallback)]  # type: ignore[attr-defined]
    for hook in ("on_fit_start", "on_fit_end"):
        for callback in figures:
            getattr(callback, hook)(trainer, model)
    if has_test:
        trainer.test(model, datamodule=data, verbose=False)


def _move_files(source: Path, destination: Path) -> None:
    """Move all files from one folder into another, keeping their relative paths."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            target = destination / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
