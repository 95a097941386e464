"""A job in a stack: what it is, how far it came, and the files it leaves."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from lightning import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.history import History
from src.callbacks.monitor import find_judge, find_mode
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.models.base import SupervisedModule
from src.training.build import given
from src.training.checkpoints import RunCheckpoint, find_stops, load_weights
from src.training.results import Results

log = logging.getLogger(__name__)


class Member:
    """One of the jobs that are trained together.

    Args:
        cfg: the job's config as plain values, references resolved.
        folder: the job's.
        data: what the stack learns from.

    Raises:
        InputError: if its settings will not do.
    """

    def __init__(self, cfg: dict[str, Any], folder: Path, data: TensorDataModule) -> None:
        self.cfg, self.folder, self.seed = cfg, folder, int(cfg["seed"])
        seed_everything(self.seed, workers=True, verbose=False)
        settings = dict(cfg["model"])
        made = get_class(settings.pop("_target_"))  # not by Hydra's `instantiate`, which takes milliseconds for each
        self.model: SupervisedModule = made(**settings, **given(cfg, data))
        if cfg["ckpt_path"]:
            load_weights(self.model, cfg["ckpt_path"])
        self.history = History()
        self.results = Results(folder, self.history)
        monitor, mode = find_judge(cfg, data)
        self.kept = RunCheckpoint(folder / "checkpoints", monitor, mode, self.history)
        self.early = [early_stopping(each, monitor, mode) for each in cfg["callbacks"].values() if stops_early(each)]
        self.results.begin(self.model, self.seed, self.kept.monitor, mode)
        self.looks: list[tuple[int, float]] = []  # at the loss: the step and its mean since the look before
        self.rates: list[tuple[int, list[float]]] = []  # learning rates of all parameter groups, at some steps
        self.times: list[float] = []  # when each epoch ended, in seconds since 1970
        self.trouble: str | None = None  # what stopped it
        self.unwritable: str | None = None  # what keeps its folder from being written
        self.schedule: dict[str, Any] = {}  # the state of its `Schedule` as it ended

    @property
    def order_seed(self) -> int:
        """Of its batches' order; where none is given, it is the job's, as in `TensorDataModule`."""
        given = self.cfg["data"].get("order_seed")
        return self.seed if given is None else int(given)

    # What comes out of an epoch

    def add(self, row: dict[str, float], looks: list[tuple[int, float]], rates: list[tuple[int, list[float]]]) -> bool:
        """Take an epoch's metrics in; returns whether its weights are the best so far."""
        self.history.rows.append({"epoch": len(self.history.rows) + 1, **row})
        self.looks += looks
        self.rates += rates
        self.times.append(time.time())
        self.history.saved = len(self.history.rows)
        score = row.get(self.kept.monitor) if self.kept.monitor else None
        if score is None or not self.kept.at_least_as_good(score):
            return False
        self.kept.best_model_score = score
        return True

    @property
    def has_stopped(self) -> bool:
        """Whether validation no longer improves, as its early stopping has it."""
        row, stop = self.history.rows[-1], False
        for early in self.early:
            if early.monitor in row:
                stop, why = early._evaluate_stopping_criteria(torch.tensor(row[early.monitor]))
                if stop:
                    early.stopped_epoch, early.stopping_reason_message = len(self.history.rows) - 1, why
                    self.kept.stops = find_stops(self.early)
        return stop

    def callback_states(self, rows: int | None = None) -> dict[str, Any]:
        """What its callbacks keep in a checkpoint, with so many of its epochs."""
        history = {"rows": [dict(row) for row in self.history.rows[:rows]], "seconds": self.history.seconds}
        parts = {each.state_key: each.state_dict() for each in (EpochSeed(self.seed), self.kept, *self.early)}
        if rows is not None and rows < len(self.history.rows):
            parts[self.kept.state_key]["stops"] = {}  # it went on
        return {**parts, self.history.state_key: history}

    # Being stopped and going on

    def progress(self) -> dict[str, Any]:
        """All that it must know to go on, as plain values and tensors."""
        return {
            "rows": self.history.rows,
            "best": self.kept.best_model_score,
            "stops": self.kept.stops,
            "early": [each.state_dict() for each in self.early],
            "looks": self.looks,
            "rates": self.rates,
            "times": self.times,
            "trouble": self.trouble,
            "schedule": self.schedule,
        }

    def go_on_from(self, progress: dict[str, Any], seconds: float) -> None:
        self.history.rows, self.history.saved = progress["rows"], len(progress["rows"])
        self.history.seconds_before = seconds
        self.kept.best_model_score, self.trouble = progress["best"], progress["trouble"]
        self.schedule, self.kept.stops = progress["schedule"], progress["stops"]
        for early, state in zip(self.early, progress["early"], strict=True):
            early.load_state_dict(state)
        self.looks, self.rates, self.times = progress["looks"], progress["rates"], progress["times"]

    # What comes out in the end

    def add_test(self, loss: float, acc: float | None, confusion: Tensor | None, names: tuple[str, ...]) -> None:
        """The test's metrics, those of `Results.add_test`."""
        self.results.test_metrics = {"test/loss": loss}
        if acc is not None and confusion is not None:
            shares = (confusion.diagonal() / confusion.sum(dim=1)).tolist()
            self.results.test_metrics |= {"test/acc": acc, "test/acc_per_class": dict(zip(names, shares, strict=True))}

    @contextmanager
    def at_own_cost(self) -> Iterator[None]:
        """Let what keeps this job's folder from being written cost this job, and none of those beside it."""
        try:
            yield
        except (InputError, OSError) as error:
            self.unwritable = self.unwritable or str(error)

    def tell(self, seconds: float) -> None:
        """Write how far it is, after so many seconds of training."""
        self.history.seconds_before = seconds
        with self.at_own_cost():
            self.results.write_metrics()

    def close(self) -> None:
        """Write how it ended; last of all files."""
        with self.at_own_cost():
            if self.unwritable is not None:
                self.results.write_status("failed", "error", self.unwritable)
            elif self.trouble is not None:
                self.results.write_status("failed", "diverged", self.trouble)
            else:
                self.results.write_status("finished")


def stops_early(settings: dict[str, Any] | None) -> bool:
    return settings is not None and settings["_target_"].endswith(".EarlyStopping")


def early_stopping(settings: dict[str, Any], monitor: str | None, mode: str) -> EarlyStopping:
    """Return the callback; where it names no metric it watches what the run is judged by."""
    watched = settings["monitor"] or monitor
    own = settings.get("mode") or (mode if watched == monitor else find_mode(str(watched)))
    made: EarlyStopping = instantiate({**settings, "monitor": watched, "mode": own})
    return made
