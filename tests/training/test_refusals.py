"""Lightning's settings and callbacks: each is honoured, or refused before training with the name of what works."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch import callbacks
from omegaconf import OmegaConf

from src.cli.messages import EXTRA_TRAINER_ARGUMENTS
from src.core.errors import InputError
from src.training.build import build_plain_trainer
from src.training.validation.refusals import REFUSED_ARGUMENTS, REFUSED_CALLBACKS, refuse_unsupported
from tests.command_line import BARE, CONF, run, train, train_bare

LIGHTNING = "lightning.pytorch.callbacks"
DDP = "lightning.pytorch.strategies.DDPStrategy"

# A value for each of Trainer's arguments that is not its default, and how the Trainer tells that it has it.
HONOURED: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "accelerator": ("CPUAccelerator", lambda trainer: type(trainer.accelerator).__name__),
    "accumulate_grad_batches": (3, lambda trainer: trainer.accumulate_grad_batches),
    "benchmark": (True, lambda trainer: torch.backends.cudnn.benchmark),
    "check_val_every_n_epoch": (3, lambda trainer: trainer.check_val_every_n_epoch),
    "detect_anomaly": (True, lambda trainer: trainer._detect_anomaly),
    "devices": (2, lambda trainer: trainer.num_devices),
    "enable_autolog_hparams": (False, lambda trainer: trainer.enable_autolog_hparams),
    "gradient_clip_algorithm": ("value", lambda trainer: trainer.gradient_clip_algorithm.value),
    "gradient_clip_val": (0.5, lambda trainer: trainer.gradient_clip_val),
    "inference_mode": (False, lambda trainer: trainer.test_loop.inference_mode),
    "limit_test_batches": (0.5, lambda trainer: trainer.limit_test_batches),
    "limit_train_batches": (0.5, lambda trainer: trainer.limit_train_batches),
    "limit_val_batches": (0.5, lambda trainer: trainer.limit_val_batches),
    "log_every_n_steps": (3, lambda trainer: trainer.log_every_n_steps),
    "max_epochs": (3, lambda trainer: trainer.max_epochs),
    "max_steps": (3, lambda trainer: trainer.max_steps),
    "max_time": ({"minutes": 2, "seconds": 3}, lambda trainer: get_timer_duration(trainer)),
    "min_epochs": (3, lambda trainer: trainer.min_epochs),
    "min_steps": (3, lambda trainer: trainer.min_steps),
    "num_nodes": (2, lambda trainer: trainer.num_nodes),
    "overfit_batches": (2, lambda trainer: trainer.overfit_batches),
    "precision": ("bf16-mixed", lambda trainer: trainer.precision),
    "profiler": ("AdvancedProfiler", lambda trainer: type(trainer.profiler).__name__),
    "reload_dataloaders_every_n_epochs": (3, lambda trainer: get_reload_interval(trainer)),
    "strategy": ("DDPStrategy", lambda trainer: type(trainer.strategy).__name__),
    "sync_batchnorm": (True, lambda trainer: type(trainer.strategy._layer_sync).__name__ == "TorchSyncBatchNorm"),
    "val_check_interval": (0.5, lambda trainer: trainer.val_check_interval),
}
CONFIG_VALUES = {
    "accelerator": "cpu",
    "strategy": "ddp",
    "profiler": "advanced",
}  # where the Trainer tells it in other words
REQUIRED_SETTINGS = {"num_nodes": {"strategy": "ddp"}, "sync_batchnorm": {"strategy": "ddp"}}


def get_timer_duration(trainer: Any) -> dict[str, float]:
    seconds = next(each for each in trainer.callbacks if isinstance(each, callbacks.Timer))._duration or 0.0
    return {"minutes": seconds // 60, "seconds": seconds % 60}


def get_reload_interval(trainer: Any) -> int:
    return int(trainer._data_connector.trainer.reload_dataloaders_every_n_epochs)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark


def test_every_trainer_argument_is_covered() -> None:
    """Each argument of Lightning's Trainer is either honoured or refused."""
    assert sorted([*HONOURED, *REFUSED_ARGUMENTS]) == sorted(
        set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    )


def test_extra_trainer_arguments_are_known() -> None:
    """Honoured arguments that the configs lack are listed as those to be added with a plus sign."""
    there = {name for path in (CONF / "trainer").glob("*.yaml") for name in OmegaConf.load(path)}
    assert sorted(EXTRA_TRAINER_ARGUMENTS) == sorted(set(HONOURED) - there)


@pytest.mark.parametrize("name", HONOURED)
def test_an_argument_reaches_the_trainer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500"), ("NODE_RANK", "0")):
        monkeypatch.setenv(variable, value)
    value, told = HONOURED[name]
    settings = {
        "_target_": "lightning.Trainer",
        "devices": 1,
        **REQUIRED_SETTINGS.get(name, {}),
        name: CONFIG_VALUES.get(name, value),
    }
    cfg = OmegaConf.create({"trainer": settings})
    refuse_unsupported(cfg)
    assert told(build_plain_trainer(cfg, "cpu", tmp_path)) == value


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_refused_argument_names_the_alternative(name: str) -> None:
    """An argument that a run decides itself is refused with what to use instead."""
    with pytest.raises(InputError) as caught:
        refuse_unsupported(OmegaConf.create({"trainer": {"_target_": "lightning.Trainer", name: None}}))
    assert str(caught.value) == f"trainer.{name} cannot be set here: {REFUSED_ARGUMENTS[name]}"


@pytest.mark.parametrize("name", REFUSED_CALLBACKS)
def test_refused_callback_names_the_alternative(name: str) -> None:
    """A callback that cannot be honoured is refused with what to use instead."""
    with pytest.raises(InputError) as caught:
        refuse_unsupported(OmegaConf.create({"callbacks": {"mine": {"_target_": f"{LIGHTNING}.{name}"}}}))
    assert str(caught.value) == f"callbacks.mine: {name} cannot be used here: {REFUSED_CALLBACKS[name]}"


def test_lightnings_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable that would set an argument of the Trainer is refused."""
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "3")
    with pytest.raises(InputError, match=r"PL_TRAINER_MAX_STEPS: use trainer\.max_steps=…"):
        refuse_unsupported(OmegaConf.create({}))


def make_callback_override(callback: str) -> str:
    return f"+callbacks={{own: {{_target_: {LIGHTNING}.{callback}}}}}"


class Faulty(Callback):
    def __init__(self) -> None:
        _ = 1 / 0


class LateAccumulation(Callback):
    """Accumulates gradients, and tells nobody beforehand."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.accumulate_grad_batches = 2


class CustomFinder(callbacks.LearningRateFinder):
    """One made from Lightning's."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("+trainer.deterministic=true", "use deterministic=true"),
        (f"+callbacks.mine._target_={__name__}.CustomFinder", "use -m sweep=learning_rate"),
        (
            f"+callbacks.ema={{_target_: {LIGHTNING}.EMAWeightAveraging, update_starting_at_epoch: 1}}",
            "use callbacks.ema.update_starting_at_step",
        ),
        (f"+callbacks.stats._target_={LIGHTNING}.DeviceStatsMonitor", "use callbacks.stats.cpu_stats=false"),
        *[(f"trainer.strategy={name}", "must be auto, ddp, ") for name in ("ddp_spawn", "ddp_notebook", "fsdp")],
        (f"+trainer.strategy={{_target_: {DDP}, start_method: fork}}", "use trainer.strategy=ddp, which starts the"),
        (
            "trainer.profiler={_target_: lightning.pytorch.profilers.PyTorchProfiler, record_shape: true}",
            "trainer.profiler.record_shape: lightning.pytorch.profilers.PyTorchProfiler has no such setting",
        ),
        ("+trainer.max_time={second: 2}", "must be null or a time as DD:HH:MM:SS or {weeks: …, days: …"),
        ("+trainer.max_time={seconds: 0}", "and not all 0"),
        ("+trainer.gradient_clip_algorithm=nrm", "must be null, norm or value"),
        (
            make_callback_override("LambdaCallback, on_train_end: builtins.print"),
            "callbacks.own.on_train_end=builtins.print must be a function",
        ),
        (
            make_callback_override("WeightAveraging, avg_fn: a.b"),
            "callbacks.own.avg_fn=a.b must be a function (a setting cannot name one",
        ),
        (
            make_callback_override("ThroughputMonitor, batch_size_fn: len"),
            "callbacks.own.batch_size_fn=len must be a function",
        ),
        (
            make_callback_override("WeightAveraging, decay: 0.9"),
            "callbacks.own.decay: lightning.pytorch.callbacks.WeightAveraging has no s",
        ),
        (
            make_callback_override("BackboneFinetuning"),
            "BackboneFinetuning freezes the model's backbone, and MLP has no such part",
        ),
        (
            make_callback_override("Timer, interval: days"),
            "callbacks.own: lightning.pytorch.callbacks.Timer does not take these settings: Uns",
        ),
        (make_callback_override("EMAWeightAveraging, decay: 2"), "does not take these settings: Invalid decay value 2"),
        (
            make_callback_override("DeviceStatsMonitor, cpu_stats: false"),
            "DeviceStatsMonitor has nowhere to log; choose logger=",
        ),
        (
            make_callback_override(f"WeightAveraging}}, two: {{_target_: {LIGHTNING}.EMAWeightAveraging"),
            "leave one out: ~callbacks.own",
        ),
        (
            f"+callbacks.own._target_={__name__}.Faulty",
            "Faulty cannot be created (ZeroDivisionError: division by zero); ",
        ),
        (
            f"+callbacks.own._target_={__name__}.LateAccumulation",
            "a callback set trainer.accumulate_grad_batches to 2 while steps",
        ),
    ],
)
def test_unsupported_setting_is_refused_before_training(given: str, words: str, tmp_path: Path) -> None:
    """Unsupported settings and callbacks are refused in one line before training."""
    settings = [given] if "_target_: " + DDP not in given else ["~trainer.strategy", given]
    with mock.patch("src.training.validation.refusals.find_spec", return_value=None):
        outcome = run("src.train", *BARE, *settings, cwd=tmp_path)
    assert words in outcome.error
    assert not list(tmp_path.rglob("*.ckpt"))


def test_time_limit_accepts_parts(tmp_path: Path) -> None:
    """A time limit can be given in parts, and a run that it ended can be resumed with more time."""
    outcome = train_bare("+trainer.max_time={seconds: 0.01}", "trainer.max_epochs=100000", cwd=tmp_path)
    assert outcome.metrics["epochs"] < 100
    assert "trainer.max_time=00:00:00:02" in outcome.out
    settings = ("trainer.max_time=01:00:00:00", "trainer.max_epochs=3")
    assert train(f"resume={outcome.folder}", *settings, cwd=tmp_path).code == 0
    assert outcome.metrics["epochs"] == 3


def test_profiler_tables_are_shown_and_logged(tmp_path: Path) -> None:
    outcome = train_bare("trainer.profiler=simple", "trainer.max_epochs=1", cwd=tmp_path)
    for text in (outcome.out, (outcome.folder / "train.log").read_text()):
        assert text.count("Profiler Report") == 2  # of training and of the test
        assert "run_training_epoch" in text
    outcome = train_bare("trainer.profiler=advanced", "trainer.max_epochs=1", cwd=tmp_path)
    assert "function calls" in outcome.out
    outcome = train_bare("trainer.profiler=pytorch", "trainer.max_epochs=1", cwd=tmp_path)
    assert "Self CPU time total" in outcome.out
    assert len(list(outcome.folder.glob("*.pt.trace.json"))) == 3
