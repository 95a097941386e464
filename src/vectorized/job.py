"""A job in a stack: its model, its progress, and the files in its folder."""

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
    """A job that is trained in a stack, together with others.

    Args:
        cfg: the job's config as plain values, references resolved.
        folder: the job's folder.
        data: the data module of the stack.

    Raises:
        InputError: if a setting is invalid.
    """

    def __init__(self, cfg: dict[str, Any], folder: Path, data: TensorDataModule) -> None:
        self.cfg, self.folder, self.seed = cfg, folder, int(cfg["seed"])
        seed_everything(self.seed, workers=True, verbose=False)
        settings = dict(cfg["model"])
        model_class = get_class(settings.pop("_target_"))  # Hydra's `instantiate` would take milliseconds per job
        self.model: SupervisedModule = model_class(**settings, **given(cfg, data))
        if cfg["ckpt_path"]:
            load_weights(self.model, cfg["ckpt_path"])
        self.history = History()
        self.results = Results(folder, self.history)
        monitor, mode = find_judge(cfg, data)
        self.kept = RunCheckpoint(folder / "checkpoints", monitor, mode, self.history)
        self.early = [early_stopping(each, monitor, mode) for each in cfg["callbacks"].values() if stops_early(each)]
        self.results.begin(self.model, self.seed, self.kept.monitor, mode)
        self.looks: list[tuple[int, float]] = []  # logged losses: step, and mean loss since the previous entry
        self.rates: list[tuple[int, list[float]]] = []  # logged learning rates: step, and one rate per parameter group
        self.times: list[float] = []  # end of each epoch, in seconds since 1970
        self.trouble: str | None = None  # message of its divergence, if it diverged
        self.unwritable: str | None = None  # error that prevents writing to its folder
        self.schedule: dict[str, Any] = {}  # the state of its `Schedule` at its end

    @property
    def order_seed(self) -> int:
        """The seed of its sample order: by default the job's seed, as in `TensorDataModule`."""
        order_seed = self.cfg["data"].get("order_seed")
        return self.seed if order_seed is None else int(order_seed)

    # Results of an epoch

    def add(self, row: dict[str, float], looks: list[tuple[int, float]], rates: list[tuple[int, list[float]]]) -> bool:
        """Add an epoch's metrics, losses and learning rates; return True if its weights are the best so far."""
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
        """True if one of its early stopping callbacks ends training after the last epoch."""
        row, stop = self.history.rows[-1], False
        for early in self.early:
            if early.monitor in row:
                stop, reason = early._evaluate_stopping_criteria(torch.tensor(row[early.monitor]))
                if stop:
                    early.stopped_epoch, early.stopping_reason_message = len(self.history.rows) - 1, reason
                    self.kept.stops = find_stops(self.early)
        return stop

    def callback_states(self, rows: int | None = None) -> dict[str, Any]:
        """Return the states of its callbacks for a checkpoint after ``rows`` epochs; ``None``: after all of them."""
        history = {"rows": [dict(row) for row in self.history.rows[:rows]], "seconds": self.history.seconds}
        parts = {each.state_key: each.state_dict() for each in (EpochSeed(self.seed), self.kept, *self.early)}
        if rows is not None and rows < len(self.history.rows):
            parts[self.kept.state_key]["stops"] = {}  # training continued after that epoch
        return {**parts, self.history.state_key: history}

    # Saving and resuming

    def progress(self) -> dict[str, Any]:
        """Return all state that it needs to resume, as plain values and tensors."""
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

    # Final results

    def add_test(self, loss: float, acc: float | None, confusion: Tensor | None, names: tuple[str, ...]) -> None:
        """Add the test's metrics, the same as `Results.add_test`."""
        self.results.test_metrics = {"test/loss": loss}
        if acc is not None and confusion is not None:
            values = (confusion.diagonal() / confusion.sum(dim=1)).tolist()
            self.results.test_metrics |= {"test/acc": acc, "test/acc_per_class": dict(zip(names, values, strict=True))}

    @contextmanager
    def at_own_cost(self) -> Iterator[None]:
        """Make errors of writing this job's folder fail this job only, not the other jobs of the stack."""
        try:
            yield
        except (InputError, OSError) as error:
            self.unwritable = self.unwritable or str(error)

    def tell(self, seconds: float) -> None:
        """Write its metrics so far, after ``seconds`` of training."""
        self.history.seconds_before = seconds
        with self.at_own_cost():
            self.results.write_metrics()

    def close(self) -> None:
        """Write its final status, the last of its files."""
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
    """Return the early stopping callback; without a metric in its settings it uses the run's monitored metric."""
    metric = settings["monitor"] or monitor
    direction = settings.get("mode") or (mode if metric == monitor else find_mode(str(metric)))
    callback: EarlyStopping = instantiate({**settings, "monitor": metric, "mode": direction})
    return callback
