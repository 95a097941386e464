"""One job: config in, a folder and one number out."""

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
OF_THE_RUN = ("precision", "limit_val_batches", "limit_test_batches")  # where an evaluation is given no other
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # what it tells otherwise, `introduce` says in two lines
    logging.getLogger(name).handlers.clear()  # its own, which it has where it was imported before there was a log
    logging.getLogger(name).propagate = True
for name in ("profilers.profiler", "callbacks.model_summary"):
    logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)  # tables that were asked for
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # losses are looked at each epoch's end
warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # data.val_size=0 says so
warnings.filterwarnings("ignore", ".*srun.*is available")  # which run to start with it, the settings say
warnings.filterwarnings("ignore", ".*treespec.*", module="lightning")


class Run(NamedTuple):
    """A run that is set up: its parts, and what there is to do.

    Attributes:
        data, model, trainer, callbacks: what it is made of.
        checkpoint: one of the callbacks.
        past: the checkpoint that it goes on from.
        over: all is done but the test.
    """

    data: LightningDataModule
    model: LightningModule
    trainer: Trainer
    callbacks: list[Callback]
    checkpoint: RunCheckpoint
    past: Path | None
    over: bool


def train(cfg: DictConfig, folder: Path | None = None) -> float | None:
    """Train, choose a checkpoint, test it once; everything is written to a folder.

    Args:
        cfg: the run's config, from the command line or `hydra.compose`.
        folder: of the command line's run; ``None``: one is made, named by the config.

    Returns:
        The monitored validation metric's best, or ``None`` without a validation set.

    Raises:
        InputError: if a setting will not do.
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
    """Set up a run that starts, or goes on in its folder; before a file is changed there all settings are checked."""
    if HydraConfig.initialized():
        check_presets(HydraConfig.get())  # type: ignore[arg-type]
    if not cfg.resume and any((folder / "checkpoints").glob("*.ckpt")):
        cfg.resume = str(folder)  # a sweep's job that was stopped, or one that a cluster starts again
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
    told = (getattr(data, "note", ""), describe_lacks(cfg, data, model, trainer.world_size), describe_unused(model))
    notes = [note for note in told if note]
    introduce(cfg, folder, kind, f"{type(model).__name__} on {type(data).__name__}", notes, summary)
    open_loggers(loggers, cfg, start, any(isinstance(each, FigureCallback) for each in callbacks))
    if past is not None:
        restore(trainer, past)
    if not over:
        take_many_steps(cfg, trainer, model, data, operations)
    results.begin(model, seed, checkpoint.monitor, mode)
    if is_main_process():
        clear_way(folder, plan)
    return Run(data, model, trainer, callbacks, checkpoint, past.path if past else None, over)


def refuse_untrained(run: Run) -> None:
    """Refuse a data set without a batch, which Lightning passes over without a word.

    Raises:
        InputError: naming it.
    """
    if not run.checkpoint.history.rows:
        raise InputError(f"{type(run.data).__name__} gives no batch: there is nothing to train on")


def suggest_longer(cfg: DictConfig, run: Run) -> str | None:
    """Return the settings with which a run that is over trains on; ``None`` if there are none."""
    epochs = len(run.checkpoint.history.rows) - run.checkpoint.cut_short
    return find_longer(find_ends(cfg, run.callbacks, Reached(epochs, run.trainer.global_step, run.checkpoint.stops)))


def take_many_steps(
    cfg: DictConfig, trainer: Trainer, model: LightningModule, data: LightningDataModule, operations: int
) -> None:
    """Hand a model of ours its batches in chunks, where nothing needs to see each step by itself."""
    ours = isinstance(model, SupervisedModule) and isinstance(data, TensorDataModule)
    if not ours or overrides(data, TensorDataModule, LOADING):
        return
    reason = why_one_by_one(trainer, model, SupervisedModule, operations)
    worth_telling = is_main_process() and reason not in (None, SIZE)  # of a large step nothing is lost
    level = logging.INFO if worth_telling else logging.DEBUG
    log.log(level, "steps: %s", f"one by one, because of {reason}" if reason else "in chunks")
    if reason is None:
        model.automatic_optimization, data.chunk = False, LOOKS * trainer.log_every_n_steps  # type: ignore[attr-defined]
        model.records_steps = cfg.get("cuda_graph", True) and not cfg.get("compile")  # type: ignore[assignment]


def settle_seed(cfg: DictConfig, folder: Path, past: Past | None) -> None:
    """Draw a seed where none is given, and keep it with the run's settings.

    Processes that a run starts beside its own take over its seed, and so does a run that goes on.
    """
    if cfg.seed is None:
        first = None if is_main_process() else os.environ.get("PL_GLOBAL_SEED")
        cfg.seed = int(first) if first else past.seed if past else secrets.randbelow(2**32)
        if is_main_process():
            keep_settings(cfg, folder)


def introduce(cfg: DictConfig, folder: Path, kind: str, what: str, notes: list[str], summary: ModelSummary) -> None:
    """Write where the run comes from, and say what it is."""
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
    """Evaluate a run on one split; the metrics are printed and written to its folder."""
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
    if overfit := own.get("overfit_batches"):  # which limits the validation, too
        own["limit_val_batches"] = overfit
    for name in OF_THE_RUN:
        if cfg.trainer[name] is None:
            cfg.trainer[name] = own.get(name) or 1.0  # a test that the run left out is one of all
    model = build_model(run, data, kind)
    path = chosen_checkpoint(folder, cfg.checkpoint)
    epoch = load_weights(model, path).get("epoch")
    trainer = plain_trainer(cfg, kind, folder)
    share_samples(trainer, data)
    loop = trainer.validate if cfg.split == "val" else trainer.test
    measured = loop(model, datamodule=data, verbose=False)
    metrics = {spell_metric(name, cfg.split): value for part in measured for name, value in part.items()}
    epoch = epoch + 1 if isinstance(epoch, int) else 0  # of a file of weights alone that is not known
    if trainer.is_global_zero:
        log.info("%s of %s (epoch %s): %s", path.name, folder, epoch, spelled(metrics))
        write_json(folder / f"eval_{cfg.split}.json", {**metrics, "checkpoint": path.name, "epoch": epoch})
    return metrics


def check_split(run: DictConfig, data: LightningDataModule, folder: Path, split: str) -> None:
    """Refuse to evaluate a run on a set that it does not have.

    Raises:
        InputError: naming what it lacks.
    """
    if split == "val" and not validates(run, data):
        raise InputError(f"{folder} was trained without validation ({why_unvalidated(run, data)}): use split=test")
    if split == "test" and not can_test(run, data):
        raise InputError(f"{folder} has no test: its model has no test_step, or its data no test_dataloader")
