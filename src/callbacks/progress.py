"""The progress bar of a terminal or a notebook; elsewhere the log's lines show that a run goes on."""

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

from src.callbacks.counting import count_all, count_batches, is_chunked, name_epoch

FORMAT = "{desc} |{bar:10}| {n:>{width}}/{total_fmt} batches, {elapsed}, {remaining} left{postfix}"


class Progress(ProgressBar):
    """Show one bar over the whole run: the epoch, the batches, the time left, the metrics.

    Log lines appear above the bar. It is gone when training ends, however that is.

    Args:
        refresh_rate: batches between two updates, ≥ 1.
    """

    takes_chunks = True  # it counts the batches in them

    def __init__(self, refresh_rate: int) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self.shown = _has_screen()
        self.bar: Any = None
        self.format = FORMAT
        self.timer: Timer | None = None
        self.around = ExitStack()  # what the bar changes while it is there

    def enable(self) -> None:
        self.shown = _has_screen()

    def disable(self) -> None:
        self.shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.shown:
            return
        total = count_all(trainer)
        self.around.enter_context(_log_above_bars())
        self.timer, self.format = _find_timer(trainer), FORMAT.replace("{width}", str(len(str(total or ""))))
        self.bar = tqdm(
            total=total,
            desc=name_epoch(trainer, aligned=True),
            initial=trainer.current_epoch * count_batches(trainer) if total else 0,
            bar_format=self.format,
            dynamic_ncols=True,
            leave=False,
            file=sys.stderr,
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.set_description_str(name_epoch(trainer, aligned=True))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        per_epoch, chunked = count_batches(trainer), is_chunked(trainer)
        done: int = pl_module.batches if chunked else batch_idx + 1  # type: ignore[assignment]
        if chunked or done % self.refresh_rate == 0 or done == per_epoch:
            before = trainer.current_epoch * per_epoch
            if self.timer is not None:
                self.bar.bar_format = self.format.replace("{remaining}", _tell_left(self.bar, self.timer))
            self.bar.set_postfix_str(_fit(_format(self.get_metrics(trainer, pl_module)), self.bar), refresh=False)
            self.bar.update(before + done - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; what is printed next begins on a line of its own."""
        self.around.close()
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # there are no versions: a run has a folder of its own
        loss = getattr(pl_module, "loss_shown", None)
        return metrics if loss is None else {"loss": loss, **metrics}


@contextmanager
def _log_above_bars() -> Iterator[None]:
    """Have what is logged to a screen appear above the bars, on lines of its own."""
    screens = (sys.stdout, sys.stderr)
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
    changed = {each: each.setStream(DummyTqdmFile(each.stream)) for each in handlers if each.stream in screens}
    try:
        yield
    finally:
        for handler, stream in changed.items():
            handler.setStream(stream)


def _has_screen() -> bool:
    """Return whether a bar can be shown: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _find_timer(trainer: Trainer) -> Timer | None:
    """Return what ends training after a time, if something does."""
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    return next((each for each in timers if each.time_remaining() is not None), None)


def _tell_left(bar: Any, timer: Timer) -> str:
    """Return the time left until the last batch, or until the time is over, which is sooner."""
    about = bar.format_dict
    done, all_of_it = about["n"] - about["initial"], about["total"]
    until_end = (all_of_it - about["n"]) * about["elapsed"] / done if done and all_of_it else math.inf
    return str(bar.format_interval(max(0.0, min(until_end, timer.time_remaining() or 0.0))))


def _fit(columns: list[str], bar: Any) -> str:
    """Return the columns that fit beside a bar as a whole: of half a number one reads another."""
    about = bar.format_dict
    room = about["ncols"] - len(bar.format_meter(**{**about, "postfix": "", "ncols": None})) if about["ncols"] else None
    shown = [text for number in range(len(columns), 0, -1) if (text := "  ".join(columns[:number]))]
    return next((text for text in shown if room is None or len(text.rstrip()) + len(", ") < room), "").rstrip()


def _format(metrics: Any) -> list[str]:
    """Return metrics in columns that keep their width: the steps' loss, then the last validation's, accuracy first."""
    metrics = dict(sorted(metrics.items(), key=lambda each: ("/" in each[0], "/acc" not in each[0])))
    metrics = {name: value for name, value in metrics.items() if not name.startswith("train/")}
    return [f"{name} {value:<9.4g}" for name, value in metrics.items() if isinstance(value, (int, float))]
