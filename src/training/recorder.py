"""Record a run: its results, status and checkpoints, however it ends, and its final message."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException, _TunerExitException
from torch.nn.parameter import is_lazy

from src.callbacks.history import History
from src.callbacks.monitor import format_metric_name
from src.cli.messages import find_input_error
from src.cli.undo import keep_created
from src.core.commands import format_command, format_restart_command, format_tensorboard_command
from src.core.devices import is_main_process
from src.core.disk import StorageError
from src.core.errors import INTERRUPTED, TERMINATED, DivergedError, InputError
from src.core.formatting import format_metrics, to_relative_path
from src.data.tasks import rate_classes
from src.loggers.events import find_event_files, write_pending_events
from src.models.base import SupervisedModule
from src.storage.files import write_csv, write_json
from src.storage.status import DAMAGED, make_status, read_status, write_status
from src.training.checkpointing.checkpoint import RunCheckpoint
from src.training.validation.limits import refuse_interval

log = logging.getLogger(__name__)
NONDETERMINISTIC_MESSAGE = r"^(\S+) does not have a deterministic implementation"  # an error message of PyTorch
# Out-of-memory messages of plain RuntimeErrors: from the machine's allocator, CUDA itself, and its libraries.
OUT_OF_MEMORY_MESSAGES = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


class RunRecorder(RunCheckpoint):
    """The callback that records a run: its checkpoints, ``metrics.json``, ``history.csv`` and ``status.json``.

    It is the only one that writes them, in one order: an epoch's metrics are read, its checkpoints saved, and only then
    the other files, after each validation. ``metrics.json`` has the metrics of the chosen epoch (the best by the
    monitored metric; the last without a validation set), ``monitor`` and its ``mode``, ``best``, ``best_epoch``,
    ``epochs`` trained, ``seconds`` of training (with ``compile`` also its part, ``compile_seconds``), the number of
    ``parameters``, the ``seed``, and after the test its metrics and ``test/acc_per_class``.
    ``history.csv`` has a row of metrics per epoch.

    Args:
        folder: the run's folder.
        is_job: True for a job of a sweep, whose launcher prints how to resume it.
        epoch_limit: the epoch after which the run pauses, if it has not ended by then; ``None``: it does not pause.

    Attributes:
        is_paused: True if training has paused: what was trained is the beginning of the whole run.
    """

    def __init__(self, folder: Path, is_job: bool = False, epoch_limit: int | None = None) -> None:
        super().__init__(folder / "checkpoints", None, "min", History())
        self.run_folder, self.is_job, self.epoch_limit = folder, is_job, epoch_limit
        self.is_paused = False
        self.trust = ""  # option that a command needs to open the run again
        self.resume_arguments: list[str] = []  # settings that a command must give to resume the run
        self.is_started = False
        self.parameters = self.seed = 0
        self.test_metrics: dict[str, Any] = {}

    def select_by(self, monitor: str | None, mode: str, required: bool) -> None:
        """Choose the best epoch by a metric; see `RunCheckpoint`."""
        self.monitor = None if monitor is None else format_metric_name(monitor)
        self.mode, self.is_required = mode, required

    def start(self, model: LightningModule, seed: int) -> None:
        """Start the run: from here on its files may change."""
        self.is_started = True
        self.seed = seed
        self.parameters = _count_parameters(model)
        self.write_status("running")

    @property
    def chosen(self) -> dict[str, float]:
        """The metrics of the chosen epoch, whose weights are kept."""
        return self.history.select_best_row(self.monitor, self.mode)

    @property
    def best(self) -> float | None:
        return self.chosen.get(self.monitor) if self.monitor else None

    def collect_metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        chosen = dict(self.chosen)
        epoch = chosen.pop("epoch", None)
        return {
            **chosen,
            **self.test_metrics,
            "monitor": self.monitor,
            "mode": self.mode if self.monitor else None,
            "best": self.best,
            "best_epoch": epoch,
            "epochs": len(self.history.saved_rows),
            "seconds": round(self.history.seconds, 3),
            **({"compile_seconds": round(compiling, 3)} if (compiling := self.history.compile_seconds) else {}),
            "parameters": self.parameters,
            "seed": self.seed,
        }

    def write_metrics(self) -> None:
        if is_main_process() and self.history.saved_rows:  # before the first epoch, keep the files of an earlier start
            write_json(self.run_folder / "metrics.json", self.collect_metrics())
            write_csv(self.run_folder / "history.csv", self.history.saved_rows)

    def write_status(self, status: str, reason: str | None = None, message: str | None = None) -> None:
        if is_main_process():
            write_status(self.run_folder, make_status(status, reason, message))

    def write_final_status(self) -> None:
        """Write that the run has finished or, in the middle of its training, that it has paused."""
        if self.is_paused:
            epochs = len(self.history.saved_rows)
            self.write_status("paused", None, f"paused after epoch {epochs}, until the other jobs are as far")
        else:
            self.write_status("finished")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        refuse_interval(trainer)
        self.parameters = _count_parameters(pl_module)  # again: some models create them late
        keep_created()  # Lightning and PyTorch have checked everything that they may refuse

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parameters = _count_parameters(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        if trainer.current_epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            write_pending_events(trainer)  # Lightning logs the previous epoch's metrics after all callbacks
        if self.epoch_limit is not None and trainer.current_epoch >= self.epoch_limit:
            # The next epoch begins: all of the last one is stored, and no limit or callback has ended the run.
            self.is_paused = True
            raise _TunerExitException  # `Trainer.fit` returns, without the hooks of a training that has ended

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved = self.history.saved_count
        super().on_train_epoch_end(trainer, pl_module)
        if self.history.saved_count > saved:
            self.write_metrics()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_pending_events(trainer)

    def finish_training(self, data: LightningDataModule) -> None:
        """Write the metrics of training; refuse data without any batch, which Lightning skips silently.

        Raises:
            InputError: if no epoch was trained; the message names the data module.
        """
        if not self.history.rows:
            raise InputError(f"{type(data).__name__} gives no batch: there is nothing to train on")
        self.write_metrics()

    def add_test_metrics(
        self, model: LightningModule, data: LightningDataModule, test_results: Sequence[Mapping[str, float]]
    ) -> None:
        """Add the metrics of each test set, and the accuracy per class if the model has a confusion matrix."""
        self.test_metrics = {
            format_metric_name(name, "test"): value for part in test_results for name, value in part.items()
        }
        confusion = getattr(model, "confusion", None)
        if self.test_metrics and isinstance(model, SupervisedModule) and confusion is not None and confusion.numel():
            accuracies = rate_classes(confusion).tolist()
            names = getattr(data, "class_names", None) or map(str, range(len(accuracies)))
            self.test_metrics["test/acc_per_class"] = dict(zip(names, accuracies, strict=True))

    @contextmanager
    def record_outcome(self) -> Iterator[None]:
        """Write metrics and status when the block ends, also by an error, Ctrl-C or a request to stop."""
        try:
            yield
            self.write_metrics()
            self.write_final_status()
        except (KeyboardInterrupt, SystemExit) as stop:
            if _is_call_of_exit(stop):
                message = f"the run's code called sys.exit({stop.code!r})"  # type: ignore[union-attr]
                self.record_stop("failed", "error", message)
                raise InputError(f"{message}; {self.stored_epochs_message}") from stop
            how = "asked to stop (SIGTERM)" if isinstance(stop, SIGTERMException) else "Ctrl-C"
            self.record_stop("interrupted", "killed", f"{how} after {len(self.history.saved_rows)} epochs")
            if is_main_process():
                log.info("%s with: %s", self.resume_message, self.format_resume_command())
            sys.exit(TERMINATED if isinstance(stop, SIGTERMException) else INTERRUPTED)
        except DivergedError as error:
            diverged = DivergedError(f"{error}; {self.stored_epochs_message}")
            self.record_stop("failed", "diverged", str(diverged))
            raise diverged from error
        except Exception as error:
            known = find_input_error(error)
            if isinstance(known, StorageError):
                known = known.with_advice(
                    self.stored_epochs_message, "" if self.is_job else f"resume with: {self.format_rerun_command()}"
                )
                self.record_stop("failed", known.reason, str(known))
                raise known from error
            if found := _explain_device_error(error):
                reason, known = found
                self.record_stop("failed", reason, str(known))
                raise known from error
            self.record_stop("failed", "error", str(known or f"{type(error).__name__}: {error}"))
            raise

    def record_stop(self, status: str, reason: str, message: str) -> None:
        """Write metrics and status of a run that did not finish.

        A resumed run that failed before it started again keeps its earlier files.
        """
        before = read_status(self.run_folder)["status"]
        if self.run_folder.is_dir() and (self.is_started or before in ("waiting", DAMAGED)):
            # A storage error here must not hide the error that stopped the run, often one of the same disk.
            with suppress(StorageError):
                self.write_metrics()
            with suppress(StorageError):
                self.write_status(status, reason, message)

    @property
    def resume_message(self) -> str:
        """A message: how far a stopped run came, and how to resume or restart it."""
        epochs = len(self.history.saved_rows)
        return (
            f"stopped after {epochs} epochs; resume"
            if epochs
            else f"stopped, {self.stored_epochs_message}; start again"
        )

    @property
    def stored_epochs_message(self) -> str:
        """A message: the epochs that are safely stored although the disk can no longer be written."""
        if epochs := len(self.history.saved_rows):
            return "epoch 1 is kept" if epochs == 1 else f"epochs 1 to {epochs} are kept"
        kept = (self.folder / "last.ckpt").is_file()
        return "the earlier epochs are kept" if kept else "no epoch is kept yet"

    def format_rerun_command(self) -> str:
        """Return the command that resumes the run.

        If the current command already resumes it, return that command with its settings.
        """
        resumed = any(argument.startswith("resume=") for argument in sys.orig_argv)
        return format_restart_command(sys.orig_argv[1:]) if resumed else self.format_resume_command()

    def format_resume_command(self) -> str:
        arguments = [f"resume={to_relative_path(self.run_folder)}", *self.resume_arguments]
        return f"{format_command('src.train', arguments)}{self.trust}"

    def format_outcome(self) -> str:
        """Return the results in one line."""
        stages = ("val/", "test/", self.monitor or "train/")
        numbers = {
            name: value
            for name, value in self.collect_metrics().items()
            if name.startswith(stages) and isinstance(value, float)
        }
        text = f": {format_metrics(numbers)}" if numbers else ""
        which = "best" if self.best is not None else "last"
        return f"{which} epoch {self.chosen.get('epoch', 0):g}{text} ({self.history.seconds:.1f} s)"

    def format_final_message(self, extension: str | None, closed_reason: str = "") -> str:
        """Return the final message: results, folder, and the commands for the next steps.

        Args:
            extension: the settings that train the run longer; ``None`` if there are none.
            closed_reason: the reason if no command can open the run.
        """
        folder = Path(to_relative_path(self.run_folder))
        logdir = folder.parent.parent if folder.parent.name == "runs" else folder.parent
        tensorboard = f"  look at it:   {format_tensorboard_command(str(logdir))}"
        lines = [
            "",
            self.format_outcome(),
            f"  all of it:    {folder}  (metrics.json, figures/, checkpoints/)",
            *([tensorboard] if find_event_files(self.run_folder) else []),
        ]
        if closed_reason:
            return "\n".join([*lines, f"  no command evaluates it or trains it longer: {closed_reason}"])
        lines.append(f"  evaluate it:  {format_command('src.eval', [f'run={folder}'])}{self.trust}")
        return "\n".join(
            [*lines, f"  train longer: {self.format_resume_command()} {extension}"] if extension else lines
        )


@contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Explain out-of-memory errors of the block in one line.

    Raises:
        InputError: in place of the original error.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise _make_memory_error(error) from error
        raise


def _is_call_of_exit(stop: BaseException) -> bool:
    """Return True for a call of ``sys.exit`` by a model or a callback; Lightning itself turns Ctrl-C into one."""
    return type(stop) is SystemExit and not isinstance(stop.__context__, KeyboardInterrupt)


def _explain_device_error(error: Exception) -> tuple[str, InputError] | None:
    """Return the reason and the error to raise for an error that shows a limit of the device; ``None`` for another."""
    if is_out_of_memory(error):
        return "out of memory", _make_memory_error(error)
    if found := re.search(NONDETERMINISTIC_MESSAGE, str(error)):
        how = "is not deterministic on this device; choose a model without it, or deterministic=false"
        return "error", InputError(f"deterministic=true: {found[1]} {how}")
    return None


def _make_memory_error(error: Exception) -> InputError:
    return InputError(
        f"there is not enough memory{_format_requested_memory(error)}: take a smaller model or data.batch_size"
    )


def _count_parameters(model: LightningModule) -> int:
    """Return the number of a model's parameters; lazy ones, without a size yet, count as 0."""
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))


def _format_requested_memory(error: Exception) -> str:
    """Return " (PyTorch asked for …)" if an error contains the requested size, otherwise an empty text."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return f" (PyTorch asked for {found[1]})" if found else ""


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an error means that the memory of a GPU or of the machine is exhausted."""
    by_message = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES)
    return by_message or isinstance(error, (torch.OutOfMemoryError, MemoryError))
