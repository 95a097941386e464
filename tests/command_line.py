"""Running the command line in tests: in this process, which is quick, or in one of its own."""

import contextlib
import importlib
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback as HydraCallback
from lightning import Callback, LightningModule, Trainer

from src.data.loading.samples import Samples
from tests.forking import ForkedProcess

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
BARE = ("callbacks=none", "logger=none")  # no pictures, no events: the quickest run
NO_FIGURES = tuple(f"~callbacks.{name}" for name in ("curves", "decision_regions", "confusion_matrix"))  # of points
HIDDEN_DEVICES: tuple[Any, ...] = (torch.cuda, torch.backends.mps)  # devices that commands in this process do not see
PROCESS_TIMEOUT = 240.0  # seconds to wait for a process; none of them needs a tenth of it on a free machine


@dataclass
class Outcome:
    """What a command left: its exit status, what it wrote, and the folders of the runs that it made."""

    code: int
    out: str
    err: str
    folders: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The run's folder, of a command that made just one."""
        assert len(self.folders) == 1, self
        return self.folders[0]

    @property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / "metrics.json")

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def error(self) -> str:
        """The one line on what was wrong; fails if there is more than one, or a traceback."""
        assert self.code == 1, self
        assert "Traceback" not in self.text, self.text
        lines = [line for line in self.text.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.text
        assert self.text.rstrip().endswith(lines[0]), self.text
        return lines[0]


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def run_folders(cwd: Path) -> set[Path]:
    """The folders of runs and of sweeps' jobs below the working directory's outputs."""
    found = [*cwd.glob("outputs/runs/*"), *cwd.glob("outputs/sweeps/*/*")]
    return {path for path in found if path.is_dir() and not path.name.startswith(".")}


def train(*overrides: str, cwd: Path) -> Outcome:
    """``python -m src.train OVERRIDES`` in this process; fails unless it ends well."""
    outcome = run("src.train", *overrides, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome


def train_bare(*overrides: str, cwd: Path) -> Outcome:
    """A run without pictures and events."""
    return train(*drop_overridden(*BARE, *overrides), cwd=cwd)


def drop_overridden(*arguments: str) -> list[str]:
    """Return arguments without those whose setting a later one gives again."""
    return list({argument.partition("=")[0].lstrip("+~"): argument for argument in arguments}.values())


def get_small_image_settings(name: str, data_dir: Path) -> list[str]:
    """An image set of the small ones, which hold 200 + 100 images."""
    return [f"data={name}", *get_image_settings(data_dir), "data.val_size=40", "data.batch_size=16"]


def get_image_settings(data_dir: Path) -> list[str]:
    """The settings for image files that are not the published ones."""
    return [f"paths.data={data_dir}", "data.verify=false"]


def evaluate(*overrides: str, cwd: Path) -> Outcome:
    """``python -m src.eval OVERRIDES`` in this process; fails unless it ends well."""
    outcome = run("src.eval", *overrides, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome


def run(module: str, *arguments: str, cwd: Path) -> Outcome:
    """``python -m MODULE ARGUMENTS`` in this process, which stays as it was; on one thread of the CPU."""
    before, code, message, arguments = run_folders(cwd), 0, "", add_trust(arguments)
    with isolate_process_state(module, arguments, cwd) as (out, err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            if isinstance(stop.code, str):  # Python prints it and ends with status 1
                code, message = 1, f"{stop.code}\n"
            else:
                code = stop.code or 0
    return Outcome(code, out.getvalue(), err.getvalue() + message, sorted(run_folders(cwd) - before))


def add_trust(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return arguments that open a run with callbacks of the tests in it; those that give ``trust=`` as they are."""
    opens = any(argument.startswith(("resume=", "run=")) for argument in arguments)
    trusts = any(argument.startswith("trust=") for argument in arguments)
    return (*arguments, "trust=tests") if opens and not trusts else arguments


@contextlib.contextmanager
def isolate_process_state(
    module: str, arguments: tuple[str, ...], cwd: Path
) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What a process has of its own: arguments, environment, working directory, streams, log handlers."""
    root, hydra, threads = logging.getLogger(), Singleton.get_state(), torch.get_num_threads()
    handlers, level, modules = root.handlers[:], root.level, set(sys.modules)
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    GlobalHydra.instance().clear()
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.ExitStack() as hidden,
            mock.patch.dict(
                os.environ, OMP_NUM_THREADS="1", PYTHONPATH=build_python_path(), DATA_DIR="no-data-folder-was-given"
            ),
            mock.patch.object(sys, "argv", ["-m", *arguments]),
            mock.patch.object(sys, "orig_argv", ["python", "-m", module, *arguments]),
            mock.patch.object(sys, "path", [str(cwd), *sys.path]),
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            for device in HIDDEN_DEVICES:
                hidden.enter_context(mock.patch.object(device, "is_available", bool))  # bool() is False
            yield out, err
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                with contextlib.suppress(OSError):  # as where Python ends: what it still has may not be written
                    handler.close()
        root.handlers[:], root.level = handlers, level
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(cwd)):
                del sys.modules[name]  # the next test's package of that name is another
        Singleton.set_state(hydra)
        GlobalHydra.instance().clear()
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


# Callbacks that look at a run, or stop it; given on the command line


class ReturnRecorder(HydraCallback):
    """Notes what each job returns to Hydra."""

    SETTING = "+hydra.callbacks.returned._target_=tests.command_line.ReturnRecorder"
    values: ClassVar[list[Any]] = []

    def on_job_end(self, config: Any, job_return: JobReturn, **kwargs: Any) -> None:
        self.values.append(job_return.return_value)


class BatchRecorder(Callback):
    """Notes the learning rate and the inputs of each training step, and the data and weights at the start."""

    SETTING = "+callbacks.seen._target_=tests.command_line.BatchRecorder"
    last: ClassVar["BatchRecorder"]

    def __init__(self) -> None:
        BatchRecorder.last = self
        self.rates: list[float] = []
        self.trained: list[Samples] = []
        self.tested: list[Samples] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.trained.append(batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.tested.append(batch)


class WeightEraser(Callback):
    """Makes all parameters zero, for good, so that the epochs before are the better ones.

    Args:
        epoch: in which epoch, from 1.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @staticmethod
    def setting(epoch: int) -> str:
        return f"+callbacks.spoil={{_target_:tests.command_line.WeightEraser,epoch:{epoch}}}"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 >= self.epoch:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.0
            for parameter in pl_module.parameters():
                parameter.data.zero_()


class SignalSender(Callback):
    """Sends its own process a signal in the middle of an epoch, once in the life of a run.

    Args:
        signal: its name, such as SIGINT.
        epoch: in which epoch, from 1.
    """

    def __init__(self, signal: str, epoch: int) -> None:
        self.signal, self.epoch = signal, epoch

    @staticmethod
    def setting(name: str, epoch: int) -> str:
        return f"+callbacks.stop={{_target_:tests.command_line.SignalSender,signal:{name},epoch:{epoch}}}"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        mark = Path(trainer.default_root_dir) / "was_stopped"
        if trainer.current_epoch + 1 == self.epoch and batch_idx == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.Signals[self.signal])


# Processes of their own


def build_python_path() -> str:
    """Return where a process finds this project, and what this one was given beside it."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def spawn(
    module: str, *arguments: str, cwd: Path, is_fresh: bool = False, **environment: str
) -> "subprocess.Popen[str]":
    """Start ``python -m MODULE ARGUMENTS`` in a folder, its output in pipes.

    Args:
        is_fresh: start a new interpreter, as a shell does, instead of a fork of one that has imported everything.
    """
    hidden = not environment.get("CUDA_VISIBLE_DEVICES")  # a GPU is used by interpreters of their own
    start = ForkedProcess if sys.platform == "linux" and hidden and not is_fresh else subprocess.Popen
    return start(
        [sys.executable, "-m", module, *add_trust(arguments)],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": build_python_path(),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_process(module: str, *arguments: str, cwd: Path, is_fresh: bool = False, **environment: str) -> Outcome:
    """``python -m MODULE ARGUMENTS`` in a process of its own, to its end; see `spawn`."""
    before = run_folders(cwd)
    with spawn(module, *arguments, cwd=cwd, is_fresh=is_fresh, **environment) as started:
        try:
            out, err = started.communicate(timeout=PROCESS_TIMEOUT)
        finally:
            started.kill()
    return Outcome(started.returncode, out, err, sorted(run_folders(cwd) - before))


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + PROCESS_TIMEOUT
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


# What a run leaves


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors and plain values only."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def read_weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]
    return state


def read_history(folder: Path) -> list[dict[str, float]]:
    """The metrics of each epoch, as the last checkpoint keeps them."""
    rows: list[dict[str, float]] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]["History"]["rows"]
    return rows


def is_identical(first: Any, second: Any) -> bool:
    """Whether two nested structures are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(is_identical(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(is_identical, first, second))
    return bool(first == second)


def drop_seconds(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the seconds, which no two runs share."""
    return {key: value for key, value in metrics.items() if key != "seconds"}
