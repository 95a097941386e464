"""Train or evaluate one run: a config goes in; a run folder and the monitored metric come out."""

import logging
import os
import secrets
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_summary import ModelSummary, summarize
from omegaconf import DictConfig

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.figures.base import FigureCallback
from src.callbacks.monitor import resolve_monitor
from src.callbacks.unscaling import GradientUnscaler
from src.callbacks.whitening import FitWhitening
from src.cli.presets import check_presets
from src.core import devices
from src.core.devices import is_main_process
from src.core.processes import read_epoch_limit, resolve_process
from src.data.base import TensorDataModule
from src.data.preprocessing import count_samples
from src.loggers.events import ensure_later_events
from src.loggers.opening import close_loggers, make_run_start, open_loggers
from src.storage.configs import explain_unopenable, find_needed_trust, find_path_overrides
from src.storage.records import find_damage, save_config, write_provenance
from src.storage.trust import format_trust
from src.storage.weights import load_weights
from src.training.build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_model,
    build_trainer,
    check_batches,
    load_data,
    prepare_machine,
)
from src.training.checkpointing.limits import RunProgress, find_extension, find_reached_limits
from src.training.checkpointing.restore import resume_trainer
from src.training.checkpointing.resume import (
    ResumeCheckpoint,
    ResumePlan,
    check_model,
    lock_run_dir,
    plan_resume,
    read_resume_checkpoint,
    remove_obsolete_checkpoints,
)
from src.training.chunking import enable_chunking
from src.training.compilation import compile_network
from src.training.distributed import DistributedGuard, explain_lost_ranks
from src.training.python_run import open_python_run
from src.training.recorder import RunRecorder
from src.training.validation.abilities import (
    describe_limitations,
    describe_unused,
    refuse_unused,
    should_test,
)
from src.training.validation.limits import limit_samples
from src.training.validation.refusals import refuse_gradient_settings, refuse_unsuitable_callbacks

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path | None = None, is_job: bool = False) -> float | None:
    """Train a model, choose a checkpoint, test it once, and write everything to the run's folder.

    Args:
        cfg: the run's config, from the command line or `hydra.compose`.
        folder: the run's folder; ``None``: create one, named by the config.
        is_job: True for a job of a sweep, whose launcher reports the results.

    Returns:
        The best value of the monitored validation metric, or ``None`` without a validation set.

    Raises:
        InputError: if a setting is invalid.
    """
    if folder is None:
        with open_python_run(cfg) as (cfg, folder):
            return train(cfg, folder)
    devices.set_rank(resolve_process(cfg.get("trainer") or {}))
    recorder = RunRecorder(folder, is_job, read_epoch_limit())
    with recorder.record_outcome(), lock_run_dir(folder), ensure_later_events(folder), close_loggers():
        recorder.trust, recorder.resume_arguments = format_trust(find_needed_trust(cfg)), find_path_overrides(cfg)
        # 1. Settings: checked before any file in the folder changes, resumed and seeded.
        device_kind = _check_settings(cfg, folder, is_job)
        past = read_resume_checkpoint(cfg, folder)
        seed = _set_seed(cfg, folder, past)
        refuse_unused(cfg)
        # 2. The data, then the model, whose shapes are those of the data.
        data = build_data(cfg)
        model = build_model(cfg, data, device_kind)
        recorder.select_by(*resolve_monitor(cfg, data), required=cfg.get("monitor") is not None)
        own = [DistributedGuard(folder), EpochSeed(seed), GradientUnscaler(), FitWhitening()]
        callbacks = [*own, *build_callbacks(cfg, data), recorder]
        plan = _plan_resume(cfg, folder, past, model, seed, callbacks)
        summary = _load(cfg, data, model, plan, device_kind)
        # 3. The trainer, from here on files are written.
        trainer = _open_trainer(cfg, folder, data, model, callbacks, plan, summary, device_kind, is_job)
        recorder.start(model, seed)
        if is_main_process():
            remove_obsolete_checkpoints(folder, plan)
        # 4. Training, then the test set, once, with the chosen weights.
        resume_path = plan.checkpoint.path if plan.checkpoint else None
        with explain_lost_ranks(trainer):
            with compile_network(model, None if plan.is_trained else cfg.get("compile"), recorder.history):
                trainer.fit(model, datamodule=data, ckpt_path=resume_path)
            recorder.finish_training(data)
            if not recorder.is_paused and should_test(cfg, data):
                load_weights(model, recorder.best_model_path)
                recorder.add_test_metrics(model, data, trainer.test(model, datamodule=data, verbose=False))
    if is_main_process():
        log.info(recorder.format_outcome() if is_job else _format_final_message(cfg, recorder, callbacks, trainer))
    return recorder.best


def _check_settings(cfg: DictConfig, folder: Path, is_job: bool) -> str:
    """Check all settings that need no data, prepare the machine, and return the kind of device."""
    if HydraConfig.initialized():
        check_presets(HydraConfig.get())  # type: ignore[arg-type]
    if not cfg.resume and any((folder / "checkpoints").glob("*.ckpt")):
        cfg.resume = str(folder)  # a stopped job of a sweep, or one that a cluster restarts
    return prepare_machine(cfg, is_job)


def _set_seed(cfg: DictConfig, folder: Path, past: ResumeCheckpoint | None) -> int:
    """Seed the run; if no seed is given, draw one and save it with the run's settings.

    Further processes of a distributed run use the seed of the main process; a resumed run keeps its seed.
    """
    if cfg.seed is None:
        main_seed = None if is_main_process() else os.environ.get("PL_GLOBAL_SEED")
        cfg.seed = int(main_seed) if main_seed else past.seed if past else secrets.randbelow(2**32)
        if is_main_process():
            save_config(cfg, folder)
    return seed_everything(cfg.seed, workers=True, verbose=False)


def _plan_resume(
    cfg: DictConfig,
    folder: Path,
    past: ResumeCheckpoint | None,
    model: LightningModule,
    seed: int,
    callbacks: list[Callback],
) -> ResumePlan:
    """Check model and callbacks against each other and against the checkpoint, and plan where training resumes."""
    if past is not None:
        check_model(past, model, seed)
    refuse_gradient_settings(cfg, callbacks)
    refuse_unsuitable_callbacks(cfg, callbacks, model)
    return plan_resume(cfg, folder, past, callbacks)


def _load(
    cfg: DictConfig, data: LightningDataModule, model: LightningModule, plan: ResumePlan, device_kind: str
) -> ModelSummary:
    """Load the data and, for a new run with ``ckpt_path``, weights; return the model's summary."""
    summary = summarize(model, max_depth=3)
    if device_kind == devices.CPU and devices.resolve_threads(cfg.threads) is None:
        devices.limit_threads(_count_operations(summary, data))
    if cfg.ckpt_path and plan.checkpoint is None:
        devices.convert_weights(model, cfg.trainer.get("precision"))
        load_weights(model, cfg.ckpt_path)
    load_data(data)
    check_batches(cfg, model, data)
    return summary


def _count_operations(summary: ModelSummary, data: LightningDataModule) -> int:
    """Return the floating-point operations of one forward pass of a batch; 0: unknown."""
    return summary.total_flops * data.batch_size if isinstance(data, TensorDataModule) else 0


def _open_trainer(
    cfg: DictConfig,
    folder: Path,
    data: LightningDataModule,
    model: LightningModule,
    callbacks: list[Callback],
    plan: ResumePlan,
    summary: ModelSummary,
    device_kind: str,
    is_job: bool,
) -> Trainer:
    """Build the trainer, write the run's provenance, open its loggers, and restore the checkpoint."""
    past = plan.checkpoint
    start = make_run_start(folder, past.step if past else 0 if cfg.resume else None)
    loggers = build_loggers(cfg, start)
    trainer = build_trainer(cfg, device_kind, folder, callbacks, loggers)
    limit_samples(trainer, data)
    limitations = describe_limitations(cfg, data, model, trainer.world_size)
    notes = [note for note in (getattr(data, "note", ""), limitations, describe_unused(model)) if note]
    title = f"{getattr(model, 'arch', type(model).__name__)} on {type(data).__name__}"
    _log_run_header(cfg, folder, device_kind, count_samples(data), title, notes, None if is_job else summary)
    open_loggers(loggers, cfg, start, any(isinstance(callback, FigureCallback) for callback in callbacks))
    if past is not None:
        resume_trainer(trainer, past)
    if not plan.is_trained:
        use_cuda_graphs = cfg.get("cuda_graph", True) and not cfg.get("compile")
        enable_chunking(trainer, model, data, _count_operations(summary, data), use_cuda_graphs)
    return trainer


def _format_final_message(cfg: DictConfig, recorder: RunRecorder, callbacks: list[Callback], trainer: Trainer) -> str:
    """Return a finished run's results, and the commands for the next steps."""
    epochs = len(recorder.history.rows) - recorder.cut_short
    progress = RunProgress(epochs, trainer.global_step, recorder.stops)
    extension = find_extension(find_reached_limits(cfg, callbacks, progress))
    return recorder.format_final_message(extension, explain_unopenable(cfg))


def _log_run_header(
    cfg: DictConfig,
    folder: Path,
    device_kind: str,
    samples: dict[str, int],
    title: str,
    notes: list[str],
    summary: ModelSummary | None,
) -> None:
    """Write the run's provenance, and log what is trained on which data and device."""
    if not is_main_process():
        return
    if cfg.resume:
        save_config(cfg, folder)
        if damage := find_damage(folder):
            log.warning("%s: written again", damage)
    write_provenance(folder, devices.describe_device(device_kind), samples)
    log.info("%s, %s", title, devices.describe_device(device_kind))
    for note in notes:
        log.info("note: %s", note)
    if summary is not None:
        log.info("%s", summary)
