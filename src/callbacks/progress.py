"""The progress bar of a terminal or a notebook; elsewhere log lines show the progress."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from tqdm.auto import tqdm
from tqdm.contrib import DummyTqdmFile

from src.callbacks.counting import count_all_batches, count_batches, format_epoch, is_chunked

FORMAT = "{desc} |{bar:10}| {n:>{width}}/{total_fmt} batches, {elapsed}, {remaining} left{postfix}"


class Progress(ProgressBar):
    """One progress bar for the whole run: the epoch, the batches, the time left and the metrics.

    Log lines appear above the bar. The bar is removed when training ends, for any reason.

    Args:
        refresh_rate: number of batches between two updates, ≥ 1.
    """

    takes_chunks = True  # the bar counts the batches in a chunk

    def __init__(self, refresh_rate: int) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self.shown = _has_screen()
        self.bar: Any = None
        self.format = FORMAT
        self.timer: Timer | None = None
        self.exit_stack = ExitStack()  # undoes the bar's changes when it is closed

    def enable(self) -> None:
        self.shown = _has_screen()

    def disable(self) -> None:
        self.shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.shown:
            return
        total = count_all_batches(trainer)
        self.exit_stack.enter_context(_log_above_bars())
        self.timer, self.format = _find_timer(trainer), FORMAT.replace("{width}", str(len(str(total or ""))))
        self.bar = tqdm(
            total=total,
            desc=format_epoch(trainer, aligned=True),
            initial=trainer.current_epoch * count_batches(trainer) if total else 0,
            bar_format=self.format,
            dynamic_ncols=True,
            leave=False,
            file=sys.stderr,
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.set_description_str(format_epoch(trainer, aligned=True))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        per_epoch, chunked = count_batches(trainer), is_chunked(trainer)
        done: int = pl_module.num_batches if chunked else batch_idx + 1  # type: ignore[assignment]
        if chunked or done % self.refresh_rate == 0 or done == per_epoch:
            before = trainer.current_epoch * per_epoch
            if self.timer is not None:
                self.bar.bar_format = self.format.replace("{remaining}", _format_time_left(self.bar, self.timer))
            self.bar.set_postfix_str(
                _join_fitting_columns(_format_metrics(self.get_metrics(trainer, pl_module)), self.bar), refresh=False
            )
            self.bar.update(before + done - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar, so that the next output starts on a new line."""
        self.exit_stack.close()
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # a run has its own folder and no versions
        loss = getattr(pl_module, "last_logged_loss", None)
        return metrics if loss is None else {"loss": loss, **metrics}


@contextmanager
def _log_above_bars() -> Iterator[None]:
    """Redirect log lines on the screen to appear above the bars."""
    screens = (sys.stdout, sys.stderr)
    handlers = [item for item in logging.getLogger().handlers if isinstance(item, logging.StreamHandler)]
    changed = {item: item.setStream(DummyTqdmFile(item.stream)) for item in handlers if item.stream in screens}
    try:
        yield
    finally:
        for handler, stream in changed.items():
            handler.setStream(stream)


def _has_screen() -> bool:
    """Return True if a bar can be shown: in a terminal or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _find_timer(trainer: Trainer) -> Timer | None:
    """Return the timer that ends training after a time, or ``None``."""
    timers = [timer for timer in trainer.callbacks if isinstance(timer, Timer)]  # type: ignore[attr-defined]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def _format_time_left(bar: Any, timer: Timer) -> str:
    """Format the time left until the last batch or until the timer stops training, whichever is sooner."""
    state = bar.format_dict
    done, total = state["n"] - state["initial"], state["total"]
    until_end = (total - state["n"]) * state["elapsed"] / done if done and total else math.inf
    return str(bar.format_interval(max(0.0, min(until_end, timer.time_remaining() or 0.0))))


def _join_fitting_columns(columns: list[str], bar: Any) -> str:
    """Join as many columns as fit next to the bar; columns are never cut, as a cut number is wrong."""
    state = bar.format_dict
    room = state["ncols"] - len(bar.format_meter(**{**state, "postfix": "", "ncols": None})) if state["ncols"] else None
    candidates = [text for number in range(len(columns), 0, -1) if (text := "  ".join(columns[:number]))]
    return next((text for text in candidates if room is None or len(text.rstrip()) + len(", ") < room), "").rstrip()


def _format_metrics(metrics: Any) -> list[str]:
    """Format metrics as columns of constant width.

    The order: the loss of the training steps, the last validation's accuracy, its loss.
    """
    metrics = dict(sorted(metrics.items(), key=lambda each: ("/" in each[0], "/acc" not in each[0])))
    metrics = {name: value for name, value in metrics.items() if not name.startswith("train/")}
    return [f"{name} {value:<9.4g}" for name, value in metrics.items() if isinstance(value, (int, float))]
