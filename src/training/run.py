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
from src.callbacks.monitor import find_judge, spell_metric, validates, why_unvalidated
from src.callbacks.unscaling import Unscaling
from src.cli.evaluation import refuse_limits
from src.cli.main import in_sweep
from src.cli.presets import check_presets
from src.cli.python_run import run_of_its_own
from src.core import devices
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.core.places import expand_home, settle_data_dir
from src.core.processes import place_in
from src.data.base import TensorDataModule
from src.loggers.events import events_after
from src.loggers.opening import closing_loggers, find_start, open_loggers
from src.models.base import SupervisedModule
from src.models.steps import LOOKS, SIZE, overrides, why_one_by_one
from src.storage.configs import find_places_to_give, needed_trust, open_config, why_closed
from src.storage.files import write_json
from src.storage.records import find_damage, keep_settings, spelled, write_provenance
from src.storage.trust import read_packages, spell_trust
from src.training.build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_model,
    build_trainer,
    check_batches,
    load_data,
    plain_trainer,
    prepare,
)
from src.training.checkpoints import RunCheckpoint, chosen_checkpoint, load_weights
from src.training.compilation import compiled
from src.training.distributed import Company, in_company
from src.training.ends import Reached, find_ends, find_longer
from src.training.restoring import restore
from src.training.results import Results, memory_told
from src.training.resume import Past, alone, check_model, clear_way, make_plan, read_past
from src.training.validation.abilities import can_test, describe_lacks, describe_unused, refuse_unused, tests
from src.training.validation.config import wrong_settings
from src.training.validation.limits import share_samples
from src.training.validation.refusals import refuse_gradients, refuse_unsuited

log = logging.getLogger(__name__)
LOADING = (
    "train_dataloader",
    "batches",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
)
# An evaluation takes these trainer settings from the run unless it is given its own.
OF_THE_RUN = ("precision", "limit_val_batches", "limit_test_batches")
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # `introduce` logs the same information in two lines
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
        past: the checkpoint to resume from.
        over: True if training is complete and only the test is left.
    """

    data: LightningDataModule
    model: LightningModule
    trainer: Trainer
    callbacks: list[Callback]
    checkpoint: RunCheckpoint
    past: Path | None
    over: bool


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
        with run_of_its_own(cfg) as (cfg, folder):
            return train(cfg, folder)
    devices.take_place(place_in(cfg.get("trainer") or {}))
    results = Results(folder, History())
    with results.kept(), alone(folder), events_after(folder), closing_loggers():
        results.trust, results.anew = spell_trust(needed_trust(cfg)), find_places_to_give(cfg)
        run = set_up(cfg, folder, results)
        with in_company(run.trainer):
            with compiled(run.model, None if run.over else cfg.get("compile"), results.history):
                run.trainer.fit(run.model, datamodule=run.data, ckpt_path=run.past)
            refuse_untrained(run)
            results.write_metrics()
            if tests(cfg, run.data):
                load_weights(run.model, run.checkpoint.best_model_path)
                tested = run.trainer.test(run.model, datamodule=run.data, verbose=False)
                results.add_test(run.model, run.data, tested)
    if is_main_process():
        results.closed = why_closed(cfg)
        log.info(results.outcome() if in_sweep() else results.conclusion(suggest_longer(cfg, run)))
    return results.best


def set_up(cfg: DictConfig, folder: Path, results: Results) -> Run:
    """Set up a new or resumed run.

    All settings are checked before any file in the folder is changed.
    """
    if HydraConfig.initialized():
        check_presets(HydraConfig.get())  # type: ignore[arg-type]
    if not cfg.resume and any((folder / "checkpoints").glob("*.ckpt")):
        cfg.resume = str(folder)  # a stopped job of a sweep, or one that a cluster restarts
    kind = prepare(cfg)
    past = read_past(cfg, folder)
    settle_seed(cfg, folder, past)
    seed = seed_everything(cfg.seed, workers=True, verbose=False)
    refuse_unused(cfg)
    data = build_data(cfg)
    model = build_model(cfg, data, kind)
    if past is not None:
        check_model(past, model, seed)
    monitor, mode = find_judge(cfg, data)
    asked = cfg.get("monitor") is not None
    checkpoint = RunCheckpoint(folder / "checkpoints", monitor, mode, results.history, asked)
    own = [results, results.history, checkpoint]
    callbacks = [Company(folder), EpochSeed(seed), Unscaling(), *build_callbacks(cfg, data), *own]
    refuse_gradients(cfg, callbacks)
    refuse_unsuited(cfg, callbacks, model)
    past, over = plan = make_plan(cfg, folder, past, callbacks)
    # The size of a step decides how many threads pay, and whether steps are taken in chunks.
    summary = summarize(model, max_depth=3)
    operations = summary.total_flops * data.batch_size if isinstance(data, TensorDataModule) else 0
    if kind == devices.CPU and devices.asked_threads(cfg.threads) is None:
        devices.match_threads(operations)
    if cfg.ckpt_path and past is None:
        load_weights(model, cfg.ckpt_path)
    load_data(data)
    check_batches(cfg, model, data)
    start = find_start(folder, past.step if past else 0 if cfg.resume else None)
    loggers = build_loggers(cfg, start)
    trainer = build_trainer(cfg, kind, folder, callbacks, loggers)
    share_samples(trainer, data)
    candidates = (
        getattr(data, "note", ""),
        describe_lacks(cfg, data, model, trainer.world_size),
        describe_unused(model),
    )
    notes = [note for note in candidates if note]
    # The checks are done: write provenance, open the loggers, restore the checkpoint.
    introduce(cfg, folder, kind, f"{type(model).__name__} on {type(data).__name__}", notes, summary)
    open_loggers(loggers, cfg, start, any(isinstance(callback, FigureCallback) for callback in callbacks))
    if past is not None:
        restore(trainer, past)
    if not over:
        take_many_steps(cfg, trainer, model, data, operations)
    results.begin(model, seed, checkpoint.monitor, mode)
    if is_main_process():
        clear_way(folder, plan)
    return Run(data, model, trainer, callbacks, checkpoint, past.path if past else None, over)


def refuse_untrained(run: Run) -> None:
    """Refuse a data set without any batch, which Lightning skips silently.

    Raises:
        InputError: if no epoch was trained; the message names the data module.
    """
    if not run.checkpoint.history.rows:
        raise InputError(f"{type(run.data).__name__} gives no batch: there is nothing to train on")


def suggest_longer(cfg: DictConfig, run: Run) -> str | None:
    """Return the settings that let a finished run train longer; ``None`` if there are none."""
    epochs = len(run.checkpoint.history.rows) - run.checkpoint.cut_short
    return find_longer(find_ends(cfg, run.callbacks, Reached(epochs, run.trainer.global_step, run.checkpoint.stops)))


def take_many_steps(
    cfg: DictConfig, trainer: Trainer, model: LightningModule, data: LightningDataModule, operations: int
) -> None:
    """Enable training in chunks of batches for one of our models, unless something needs to see every single step."""
    ours = isinstance(model, SupervisedModule) and isinstance(data, TensorDataModule)
    if not ours or overrides(data, TensorDataModule, LOADING):
        return
    reason = why_one_by_one(trainer, model, SupervisedModule, operations)
    # Large steps lose nothing without chunks, so that the reason SIZE is not worth a line in the log.
    worth_logging = is_main_process() and reason not in (None, SIZE)
    level = logging.INFO if worth_logging else logging.DEBUG
    log.log(level, "steps: %s", f"one by one, because of {reason}" if reason else "in chunks")
    if reason is None:
        model.automatic_optimization, data.chunk = False, LOOKS * trainer.log_every_n_steps  # type: ignore[attr-defined]
        model.records_steps = cfg.get("cuda_graph", True) and not cfg.get("compile")  # type: ignore[assignment]


def settle_seed(cfg: DictConfig, folder: Path, past: Past | None) -> None:
    """Draw a seed if none is given, and save it with the run's settings.

    Further processes of a distributed run use the seed of the main process; a resumed run keeps its seed.
    """
    if cfg.seed is None:
        main_seed = None if is_main_process() else os.environ.get("PL_GLOBAL_SEED")
        cfg.seed = int(main_seed) if main_seed else past.seed if past else secrets.randbelow(2**32)
        if is_main_process():
            keep_settings(cfg, folder)


def introduce(cfg: DictConfig, folder: Path, kind: str, what: str, notes: list[str], summary: ModelSummary) -> None:
    """Write the run's provenance, and log what is trained on which data and device."""
    if not is_main_process():
        return
    if cfg.resume:
        keep_settings(cfg, folder)
        if damage := find_damage(folder):
            log.warning("%s: written anew", damage)
    write_provenance(folder, devices.describe(kind))
    log.info("%s, %s", what, devices.describe(kind))
    for note in notes:
        log.info("note: %s", note)
    log.log(logging.DEBUG if in_sweep() else logging.INFO, "%s", summary)


@memory_told()
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a run on one split; log the metrics and write them to the run's folder."""
    settle_data_dir()
    expand_home(cfg)
    kind = prepare(cfg)
    folder = Path(cfg.run)
    given = ["paths.data"] if cfg.paths.data else []
    run = open_config(folder, read_packages(cfg.trust), given)
    run.paths.data = cfg.paths.data or run.paths.data
    settings: Any = OmegaConf.to_container(run, resolve=True)
    if wrong := wrong_settings(settings):
        raise InputError(f"{folder}: {'; '.join(wrong)}")
    data = build_data(run)
    check_split(run, data, folder, cfg.split)
    own = {"precision": "32-true", **run.trainer}
    refuse_limits(cfg)
    if overfit := own.get("overfit_batches"):  # it also limits the validation
        own["limit_val_batches"] = overfit
    for name in OF_THE_RUN:
        if cfg.trainer[name] is None:
            cfg.trainer[name] = own.get(name) or 1.0  # 0 (the run skipped its test): use all batches
    model = build_model(run, data, kind)
    path = chosen_checkpoint(folder, cfg.checkpoint)
    epoch = load_weights(model, path).get("epoch")
    trainer = plain_trainer(cfg, kind, folder)
    share_samples(trainer, data)
    loop = trainer.validate if cfg.split == "val" else trainer.test
    measured = loop(model, datamodule=data, verbose=False)
    metrics = {spell_metric(name, cfg.split): value for part in measured for name, value in part.items()}
    epoch = epoch + 1 if isinstance(epoch, int) else 0  # a file that holds only weights does not contain the epoch
    if trainer.is_global_zero:
        log.info("%s of %s (epoch %s): %s", path.name, folder, epoch, spelled(metrics))
        write_json(folder / f"eval_{cfg.split}.json", {**metrics, "checkpoint": path.name, "epoch": epoch})
    return metrics


def check_split(run: DictConfig, data: LightningDataModule, folder: Path, split: str) -> None:
    """Refuse to evaluate a run on a split that it does not have.

    Raises:
        InputError: naming what is missing.
    """
    if split == "val" and not validates(run, data):
        raise InputError(f"{folder} was trained without validation ({why_unvalidated(run, data)}): use split=test")
    if split == "test" and not can_test(run, data):
        raise InputError(f"{folder} has no test: its model has no test_step, or its data no test_dataloader")
