"""Train or evaluate one run: a config goes in; a run folder and the monitored metric come out."""

import logging
import os
import secrets
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_summary import ModelSummary, summarize
from omegaconf import DictConfig, OmegaConf

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.figures.base import FigureCallback
from src.callbacks.history import History
from src.callbacks.monitor import explain_no_validation, format_metric_name, has_validation, resolve_monitor
from src.callbacks.unscaling import GradientUnscaler
from src.callbacks.whitening import FitWhitening
from src.cli.evaluation import refuse_limits
from src.cli.main import is_in_sweep
from src.cli.presets import check_presets
from src.core import devices
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.core.places import expand_home, resolve_data_dir
from src.core.processes import resolve_process
from src.data.base import TensorDataModule
from src.loggers.events import ensure_later_events
from src.loggers.opening import close_loggers, make_run_start, open_loggers
from src.models.base import SupervisedModule
from src.models.steps import LOGS_PER_CHUNK, SIZE_REASON, find_chunking_blocker, has_custom_hooks
from src.storage.configs import explain_unopenable, find_needed_trust, find_path_overrides, open_config
from src.storage.files import write_json
from src.storage.records import find_damage, format_metrics, save_config, write_provenance
from src.storage.trust import format_trust, read_packages
from src.storage.weights import load_weights
from src.training.build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_model,
    build_plain_trainer,
    build_trainer,
    check_batches,
    load_data,
    prepare_machine,
)
from src.training.checkpoints import RunCheckpoint, find_checkpoint
from src.training.compilation import compile_network
from src.training.distributed import DistributedGuard, explain_lost_ranks
from src.training.ends import RunProgress, find_extension, find_reached_limits
from src.training.python_run import open_python_run
from src.training.restoring import resume_trainer
from src.training.results import Results, explain_memory_errors
from src.training.resume import (
    ResumeCheckpoint,
    check_model,
    lock_run_dir,
    plan_resume,
    read_resume_checkpoint,
    remove_obsolete_checkpoints,
)
from src.training.validation.abilities import (
    can_test,
    describe_limitations,
    describe_unused,
    refuse_unused,
    should_test,
)
from src.training.validation.config import find_wrong_settings
from src.training.validation.limits import limit_samples
from src.training.validation.refusals import refuse_gradient_settings, refuse_unsuitable_callbacks

log = logging.getLogger(__name__)
LOADING_HOOKS = (
    "train_dataloader",
    "make_batches",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
)
# An evaluation takes these trainer settings from the run unless it is given its own.
RUN_TRAINER_SETTINGS = ("precision", "limit_val_batches", "limit_test_batches")
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # `_log_run_header` logs the same information in two lines
    # Lightning adds its own handler if it was imported before logging was configured.
    logging.getLogger(name).handlers.clear()
    logging.getLogger(name).propagate = True
for name in ("profilers.profiler", "callbacks.model_summary"):
    logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)  # tables that the user asked for
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # losses are logged at the end of each epoch
warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # intended with data.val_size=0
warnings.filterwarnings("ignore", ".*srun.*is available")  # the settings decide whether srun is used
warnings.filterwarnings("ignore", ".*treespec.*", module="lightning")


class Run(NamedTuple):
    """A run that is set up and ready to be trained.

    Attributes:
        data, model, trainer, callbacks: the run's objects.
        checkpoint: the callback that writes the checkpoints; also contained in ``callbacks``.
        resume_path: the checkpoint to resume from.
        is_trained: True if training is complete and only the test is left.
    """

    data: LightningDataModule
    model: LightningModule
    trainer: Trainer
    callbacks: list[Callback]
    checkpoint: RunCheckpoint
    resume_path: Path | None
    is_trained: bool


def train(cfg: DictConfig, folder: Path | None = None) -> float | None:
    """Train a model, choose a checkpoint, test it once, and write everything to the run's folder.

    Args:
        cfg: the run's config, from the command line or `hydra.compose`.
        folder: the run's folder; ``None``: create one, named by the config.

    Returns:
        The best value of the monitored validation metric, or ``None`` without a validation set.

    Raises:
        InputError: if a setting is invalid.
    """
    if folder is None:
        with open_python_run(cfg) as (cfg, folder):
            return train(cfg, folder)
    devices.set_rank(resolve_process(cfg.get("trainer") or {}))
    results = Results(folder, History())
    with results.record_outcome(), lock_run_dir(folder), ensure_later_events(folder), close_loggers():
        results.trust, results.resume_arguments = format_trust(find_needed_trust(cfg)), find_path_overrides(cfg)
        run = _set_up_run(cfg, folder, results)
        with explain_lost_ranks(run.trainer):
            with compile_network(run.model, None if run.is_trained else cfg.get("compile"), results.history):
                run.trainer.fit(run.model, datamodule=run.data, ckpt_path=run.resume_path)
            _refuse_untrained(run)
            results.write_metrics()
            if should_test(cfg, run.data):
                load_weights(run.model, run.checkpoint.best_model_path)
                tested = run.trainer.test(run.model, datamodule=run.data, verbose=False)
                results.add_test_metrics(run.model, run.data, tested)
    if is_main_process():
        results.closed_reason = explain_unopenable(cfg)
        log.info(
            results.format_outcome() if is_in_sweep() else results.format_final_message(_suggest_extension(cfg, run))
        )
    return results.best


def _set_up_run(cfg: DictConfig, folder: Path, results: Results) -> Run:
    """Set up a new or resumed run.

    All settings are checked before any file in the folder is changed.
    """
    if HydraConfig.initialized():
        check_presets(HydraConfig.get())  # type: ignore[arg-type]
    if not cfg.resume and any((folder / "checkpoints").glob("*.ckpt")):
        cfg.resume = str(folder)  # a stopped job of a sweep, or one that a cluster restarts
    kind = prepare_machine(cfg)
    past = read_resume_checkpoint(cfg, folder)
    _resolve_seed(cfg, folder, past)
    seed = seed_everything(cfg.seed, workers=True, verbose=False)
    refuse_unused(cfg)
    data = build_data(cfg)
    model = build_model(cfg, data, kind)
    if past is not None:
        check_model(past, model, seed)
    monitor, mode = resolve_monitor(cfg, data)
    asked = cfg.get("monitor") is not None
    checkpoint = RunCheckpoint(folder / "checkpoints", monitor, mode, results.history, asked)
    own = [FitWhitening(), results, results.history, checkpoint]
    callbacks = [DistributedGuard(folder), EpochSeed(seed), GradientUnscaler(), *build_callbacks(cfg, data), *own]
    refuse_gradient_settings(cfg, callbacks)
    refuse_unsuitable_callbacks(cfg, callbacks, model)
    past, over = plan = plan_resume(cfg, folder, past, callbacks)
    # The size of a step decides how many threads pay, and whether steps are taken in chunks.
    summary = summarize(model, max_depth=3)
    operations = summary.total_flops * data.batch_size if isinstance(data, TensorDataModule) else 0
    if kind == devices.CPU and devices.resolve_threads(cfg.threads) is None:
        devices.limit_threads(operations)
    if cfg.ckpt_path and past is None:
        load_weights(model, cfg.ckpt_path)
    load_data(data)
    check_batches(cfg, model, data)
    start = make_run_start(folder, past.step if past else 0 if cfg.resume else None)
    loggers = build_loggers(cfg, start)
    trainer = build_trainer(cfg, kind, folder, callbacks, loggers)
    limit_samples(trainer, data)
    candidates = (
        getattr(data, "note", ""),
        describe_limitations(cfg, data, model, trainer.world_size),
        describe_unused(model),
    )
    notes = [note for note in candidates if note]
    # The checks are done: write provenance, open the loggers, restore the checkpoint.
    _log_run_header(cfg, folder, kind, f"{type(model).__name__} on {type(data).__name__}", notes, summary)
    open_loggers(loggers, cfg, start, any(isinstance(callback, FigureCallback) for callback in callbacks))
    if past is not None:
        resume_trainer(trainer, past)
    if not over:
        _enable_chunking(cfg, trainer, model, data, operations)
    results.start(model, seed, checkpoint.monitor, mode)
    if is_main_process():
        remove_obsolete_checkpoints(folder, plan)
    return Run(data, model, trainer, callbacks, checkpoint, past.path if past else None, over)


def _refuse_untrained(run: Run) -> None:
    """Refuse a data set without any batch, which Lightning skips silently.

    Raises:
        InputError: if no epoch was trained; the message names the data module.
    """
    if not run.checkpoint.history.rows:
        raise InputError(f"{type(run.data).__name__} gives no batch: there is nothing to train on")


def _suggest_extension(cfg: DictConfig, run: Run) -> str | None:
    """Return the settings that let a finished run train longer; ``None`` if there are none."""
    epochs = len(run.checkpoint.history.rows) - run.checkpoint.cut_short
    return find_extension(
        find_reached_limits(cfg, run.callbacks, RunProgress(epochs, run.trainer.global_step, run.checkpoint.stops))
    )


def _enable_chunking(
    cfg: DictConfig, trainer: Trainer, model: LightningModule, data: LightningDataModule, operations: int
) -> None:
    """Enable training in chunks of batches for one of our models, unless something needs to see every single step."""
    ours = isinstance(model, SupervisedModule) and isinstance(data, TensorDataModule)
    if not ours or has_custom_hooks(data, TensorDataModule, LOADING_HOOKS):
        return
    reason = find_chunking_blocker(trainer, model, SupervisedModule, operations)
    # Large steps lose nothing without chunks, so that the reason SIZE is not worth a line in the log.
    worth_logging = is_main_process() and reason not in (None, SIZE_REASON)
    level = logging.INFO if worth_logging else logging.DEBUG
    log.log(level, "steps: %s", f"one by one, because of {reason}" if reason else "in chunks")
    if reason is None:
        model.automatic_optimization, data.chunk_length = False, LOGS_PER_CHUNK * trainer.log_every_n_steps  # type: ignore[attr-defined]
        model.uses_cuda_graphs = cfg.get("cuda_graph", True) and not cfg.get("compile")  # type: ignore[assignment]


def _resolve_seed(cfg: DictConfig, folder: Path, past: ResumeCheckpoint | None) -> None:
    """Draw a seed if none is given, and save it with the run's settings.

    Further processes of a distributed run use the seed of the main process; a resumed run keeps its seed.
    """
    if cfg.seed is None:
        main_seed = None if is_main_process() else os.environ.get("PL_GLOBAL_SEED")
        cfg.seed = int(main_seed) if main_seed else past.seed if past else secrets.randbelow(2**32)
        if is_main_process():
            save_config(cfg, folder)


def _log_run_header(
    cfg: DictConfig, folder: Path, device_kind: str, title: str, notes: list[str], summary: ModelSummary
) -> None:
    """Write the run's provenance, and log what is trained on which data and device."""
    if not is_main_process():
        return
    if cfg.resume:
        save_config(cfg, folder)
        if damage := find_damage(folder):
            log.warning("%s: written anew", damage)
    write_provenance(folder, devices.describe_device(device_kind))
    log.info("%s, %s", title, devices.describe_device(device_kind))
    for note in notes:
        log.info("note: %s", note)
    log.log(logging.DEBUG if is_in_sweep() else logging.INFO, "%s", summary)


@explain_memory_errors()
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a run on one split; log the metrics and write them to the run's folder."""
    resolve_data_dir()
    expand_home(cfg)
    kind = prepare_machine(cfg)
    folder = Path(cfg.run)
    given = ["paths.data"] if cfg.paths.data else []
    run = open_config(folder, read_packages(cfg.trust), given)
    run.paths.data = cfg.paths.data or run.paths.data
    settings: Any = OmegaConf.to_container(run, resolve=True)
    if wrong := find_wrong_settings(settings):
        raise InputError(f"{folder}: {'; '.join(wrong)}")
    data = build_data(run)
    _check_split(run, data, folder, cfg.split)
    own = {"precision": "32-true", **run.trainer}
    refuse_limits(cfg)
    if overfit := own.get("overfit_batches"):  # it also limits the validation
        own["limit_val_batches"] = overfit
    for name in RUN_TRAINER_SETTINGS:
        if cfg.trainer[name] is None:
            cfg.trainer[name] = own.get(name) or 1.0  # 0 (the run skipped its test): use all batches
    model = build_model(run, data, kind)
    path = find_checkpoint(folder, cfg.checkpoint)
    epoch = load_weights(model, path).get("epoch")
    trainer = build_plain_trainer(cfg, kind, folder)
    limit_samples(trainer, data)
    loop = trainer.validate if cfg.split == "val" else trainer.test
    measured = loop(model, datamodule=data, verbose=False)
    metrics = {format_metric_name(name, cfg.split): value for part in measured for name, value in part.items()}
    epoch = epoch + 1 if isinstance(epoch, int) else 0  # a file that holds only weights does not contain the epoch
    if trainer.is_global_zero:
        log.info("%s of %s (epoch %s): %s", path.name, folder, epoch, format_metrics(metrics))
        write_json(folder / f"eval_{cfg.split}.json", {**metrics, "checkpoint": path.name, "epoch": epoch})
    return metrics


def _check_split(run: DictConfig, data: LightningDataModule, folder: Path, split: str) -> None:
    """Refuse to evaluate a run on a split that it does not have.

    Raises:
        InputError: naming what is missing.
    """
    if split == "val" and not has_validation(run, data):
        raise InputError(
            f"{folder} was trained without validation ({explain_no_validation(run, data)}): use split=test"
        )
    if split == "test" and not can_test(run, data):
        raise InputError(f"{folder} has no test: its model has no test_step, or its data no test_dataloader")
