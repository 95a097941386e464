"""A run's results: what stands in its folder when it ends, however it ends, and its last words."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.nn.parameter import is_lazy

from src.callbacks.history import History
from src.callbacks.monitor import spell_metric
from src.cli.main import INTERRUPTED, TERMINATED, in_sweep
from src.cli.messages import input_error
from src.cli.undo import keep_made
from src.core.commands import spell_again, spell_command, spell_tensorboard
from src.core.devices import is_main_process
from src.core.disk import StorageError
from src.core.errors import DivergedError, InputError
from src.loggers.events import flush_events, list_event_files
from src.models.base import SupervisedModule
from src.storage.files import write_csv, write_json
from src.storage.records import DAMAGED, read_status, spelled
from src.training.validation.limits import refuse_interval

log = logging.getLogger(__name__)
NOT_DETERMINISTIC = r"^(\S+) does not have a deterministic implementation"  # torch of an operation
# What torch says of memory in errors of no kind of their own: of the machine's, of CUDA itself, of its libraries.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


class Results(Callback):
    """Keeps ``status.json``, ``metrics.json`` and ``history.csv`` of a run, current after each validation.

    ``metrics.json`` has the metrics of the chosen epoch (the best by the monitored metric; the
    last without a validation set), ``monitor`` and its ``mode``, ``best``, ``best_epoch``,
    ``epochs`` trained, ``seconds`` of training (with ``compile``, its part as ``compile_seconds``), the number
    of ``parameters``, the ``seed``, and after the test its metrics and ``test/acc_per_class``.
    ``history.csv`` has a row of metrics per epoch.

    Args:
        folder: the run's folder.
        history: where its metrics come from, epoch by epoch.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self.folder, self.history = folder, history
        self.trust = ""  # what a command adds that opens the run again
        self.anew: list[str] = []  # settings that one that goes on with it gives
        self.closed = ""  # why no command opens it
        self.begun = False
        self.monitor: str | None = None
        self.mode = "min"
        self.parameters = self.seed = 0
        self.test_metrics: dict[str, Any] = {}

    def begin(self, model: LightningModule, seed: int, monitor: str | None, mode: str) -> None:
        """The run begins: ``monitor`` with its ``mode`` chooses; without one the last epoch counts."""
        self.begun = True
        self.seed, self.monitor, self.mode = seed, monitor, mode
        self.parameters = count_parameters(model)
        self.write_status("running")

    @property
    def chosen(self) -> dict[str, float]:
        """The metrics of the epoch whose weights are kept."""
        return self.history.chosen(self.monitor, self.mode)

    @property
    def best(self) -> float | None:
        return self.chosen.get(self.monitor) if self.monitor else None

    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        chosen = dict(self.chosen)
        epoch = chosen.pop("epoch", None)
        return {
            **chosen,
            **self.test_metrics,
            "monitor": self.monitor,
            "mode": self.mode if self.monitor else None,
            "best": self.best,
            "best_epoch": epoch,
            "epochs": len(self.history.kept),
            "seconds": round(self.history.seconds, 3),
            **({"compile_seconds": round(compiling, 3)} if (compiling := self.history.compile_seconds) else {}),
            "parameters": self.parameters,
            "seed": self.seed,
        }

    def write_metrics(self) -> None:
        if is_main_process() and self.history.kept:  # before the first epoch what an earlier start left stays
            write_json(self.folder / "metrics.json", self.metrics())
            write_csv(self.folder / "history.csv", self.history.kept)

    def write_status(self, status: str, reason: str | None = None, message: str | None = None) -> None:
        if is_main_process():
            write_json(self.folder / "status.json", {"status": status, "reason": reason, "message": message})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_interval(trainer)
        self.parameters = count_parameters(pl_module)  # again: some models make them late
        keep_made()  # all that Lightning and PyTorch may refuse has been looked at

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parameters = count_parameters(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            self.write_metrics()  # those of the epoch before, whose checkpoint is written by now
            flush_events(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        flush_events(trainer)

    def add_test(
        self, model: LightningModule, data: LightningDataModule, tested: Sequence[Mapping[str, float]]
    ) -> None:
        """Take over the metrics of each test set, and the accuracy of each class where the model counts them."""
        self.test_metrics = {spell_metric(name, "test"): value for part in tested for name, value in part.items()}
        confusion = getattr(model, "confusion", None)
        if self.test_metrics and isinstance(model, SupervisedModule) and confusion is not None and confusion.numel():
            shares = (confusion.diagonal() / confusion.sum(dim=1)).tolist()
            names = getattr(data, "class_names", None) or map(str, range(len(shares)))
            self.test_metrics["test/acc_per_class"] = dict(zip(names, shares, strict=True))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what there is when the run ends, be it by an error, Ctrl-C or a request to stop."""
        try:
            yield
            self.write_metrics()
            self.write_status("finished")
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into an exit
            how = "asked to stop (SIGTERM)" if isinstance(stop, SIGTERMException) else "Ctrl-C"
            self.stopped("interrupted", "killed", f"{how} after {len(self.history.kept)} epochs")
            if is_main_process():
                log.info("%s with: %s", self.way_on, self.resume_command())
            sys.exit(TERMINATED if isinstance(stop, SIGTERMException) else INTERRUPTED)
        except DivergedError as error:
            diverged = DivergedError(f"{error}; {self.safe}")
            self.stopped("failed", "diverged", str(diverged))
            raise diverged from error
        except Exception as error:
            told = input_error(error)
            if isinstance(told, StorageError):
                told = told.completed(self.safe, "" if in_sweep() else f"go on with: {self.command_again()}")
                self.stopped("failed", told.reason, str(told))
                raise told from error
            if found := beyond_device(error):
                reason, told = found
                self.stopped("failed", reason, str(told))
                raise told from error
            self.stopped("failed", "error", str(told or f"{type(error).__name__}: {error}"))
            raise

    def stopped(self, status: str, reason: str, message: str) -> None:
        """Write what there is of a run that does not finish; one that did not even begin again stays as it was."""
        before = read_status(self.folder)["status"]
        if self.folder.is_dir() and (self.begun or before in ("waiting", DAMAGED)):
            with suppress(StorageError):  # it must not hide what stopped the run, and often that was the same disk
                self.write_metrics()
            with suppress(StorageError):
                self.write_status(status, reason, message)

    @property
    def way_on(self) -> str:
        """What can be done with a run that was stopped, in words."""
        epochs = len(self.history.kept)
        return f"stopped after {epochs} epochs; go on" if epochs else f"stopped, {self.safe}; start again"

    @property
    def safe(self) -> str:
        """What a disk that cannot be written has not taken, in words."""
        if epochs := len(self.history.kept):
            return "epoch 1 is kept" if epochs == 1 else f"epochs 1 to {epochs} are kept"
        kept = (self.folder / "checkpoints" / "last.ckpt").is_file()
        return "the epochs before are kept" if kept else "no epoch is kept yet"

    def command_again(self) -> str:
        """Return the command that goes on with the run: one that resumed it, with its settings, as it was typed."""
        resumed = any(argument.startswith("resume=") for argument in sys.orig_argv)
        return spell_again(sys.orig_argv[1:]) if resumed else self.resume_command()

    def resume_command(self) -> str:
        return f"{spell_command('src.train', [f'resume={self.shown_folder()}', *self.anew])}{self.trust}"

    def shown_folder(self) -> Path:
        """The folder as one would type it."""
        folder, here = self.folder.absolute(), Path.cwd()
        return folder.relative_to(here) if folder.is_relative_to(here) else folder

    def outcome(self) -> str:
        """What came out, in one line."""
        stages = ("val/", "test/", self.monitor or "train/")
        numbers = {n: each for n, each in self.metrics().items() if n.startswith(stages) and isinstance(each, float)}
        told = f": {spelled(numbers)}" if numbers else ""
        which = "best" if self.best is not None else "last"
        return f"{which} epoch {self.chosen.get('epoch', 0):g}{told} ({self.history.seconds:.1f} s)"

    def conclusion(self, longer: str | None) -> str:
        """What came out, where it is, what to do next; ``longer`` is the setting that trains on."""
        folder = self.shown_folder()
        logdir = folder.parent.parent if folder.parent.name == "runs" else folder.parent
        look = f"  look at it:   {spell_tensorboard(str(logdir))}"
        lines = [
            "",
            self.outcome(),
            f"  all of it:    {folder}  (metrics.json, figures/, checkpoints/)",
            *([look] if list_event_files(self.folder) else []),
        ]
        if self.closed:
            return "\n".join([*lines, f"  no command evaluates it or trains it longer: {self.closed}"])
        lines.append(f"  evaluate it:  {spell_command('src.eval', [f'run={folder}'])}{self.trust}")
        return "\n".join([*lines, f"  train longer: {self.resume_command()} {longer}"] if longer else lines)


@contextmanager
def memory_told() -> Iterator[None]:
    """Tell in one line where memory runs out.

    Raises:
        InputError: in place of the error that says so.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise not_enough_memory(error) from error
        raise


def beyond_device(error: Exception) -> tuple[str, InputError] | None:
    """Return the reason in a word and what to tell of an error that says what the device cannot do."""
    if out_of_memory(error):
        return "out of memory", not_enough_memory(error)
    if found := re.search(NOT_DETERMINISTIC, str(error)):
        how = "does not come to the same each time on this device; choose a model without it, or deterministic=false"
        return "error", InputError(f"deterministic=true: {found[1]} {how}")
    return None


def not_enough_memory(error: Exception) -> InputError:
    return InputError(f"there is not enough memory{asked_for(error)}: take a smaller model or data.batch_size")


def count_parameters(model: LightningModule) -> int:
    """Return how many numbers a model's parameters are; those without a size yet count for none."""
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))


def asked_for(error: Exception) -> str:
    """Return " (PyTorch asked for …)" if an error says so."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return f" (PyTorch asked for {found[1]})" if found else ""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, that of a GPU or the machine's."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))
