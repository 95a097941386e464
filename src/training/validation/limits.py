"""Limits of an epoch, as a number or a fraction of batches, checked for all sets before training.

Since evaluation uses large batches, a fraction there is one of the samples, see `limit_samples`.
"""

import math
from contextlib import suppress
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig

from src.core.devices import is_main_process
from src.core.errors import InputError
from src.core.hints import has_custom_hooks
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.loading.splits import count_fraction


def limit_samples(trainer: Trainer, data: Any) -> None:
    """Move a trainer's fractional limits of evaluation batches to the `TensorDataModule`, as fractions of samples."""
    for stage in ("val", "test"):
        fraction = getattr(trainer, f"limit_{stage}_batches")
        ours = isinstance(data, TensorDataModule) and not has_custom_hooks(
            data, TensorDataModule, [f"{stage}_dataloader"]
        )
        if ours and isinstance(fraction, float) and 0 < fraction < 1:
            data.eval_fractions[stage] = fraction
            setattr(trainer, f"limit_{stage}_batches", 1.0)


def check_limits(trainer: DictConfig, data: LightningDataModule) -> None:
    """Refuse fractions that leave no batch or sample, and validations of weights other than the saved ones.

    Raises:
        InputError: naming the setting and the smallest valid fraction.
    """
    _refuse_overridden(trainer)
    if isinstance(data, TensorDataModule):
        if data.train_set is not None:
            _check_sets(trainer, data)
    elif is_main_process():
        for stage in ("val", "test"):
            fraction = trainer.get(f"limit_{stage}_batches")
            if isinstance(fraction, float) and 0 < fraction < 1:
                for batches in _count_loader_batches(stage, data):
                    _check_batches(f"limit_{stage}_batches", fraction, batches, stage)


def _refuse_overridden(trainer: DictConfig) -> None:
    """Refuse limits without effect since another limit overrides them."""
    if overfit := trainer.get("overfit_batches"):
        for stage in ("train", "val"):
            limit = trainer.get(f"limit_{stage}_batches", 1.0)
            if limit != 1.0 or isinstance(limit, int):  # the int 1 is one batch
                why = f"trainer.overfit_batches={overfit} replaces it, for training and validation; remove one of them"
                raise InputError(f"trainer.limit_{stage}_batches={limit} has no effect: {why}")
    least, most = trainer.get("min_epochs"), trainer.get("max_epochs")
    if least and most and least > most:
        raise InputError(f"trainer.min_epochs={least} has no effect: training ends with trainer.max_epochs={most}")


def _count_loader_batches(stage: str, data: LightningDataModule) -> list[int]:
    """Return the number of batches of each loader of a stage; an empty list if they cannot be counted.

    Lightning itself counts the test batches only after training.
    """
    with suppress(Exception), isolate_rng():  # if a data module raises an error, it will do so again in training
        data.prepare_data()
        data.setup("test" if stage == "test" else "fit")
        return [len(loader) for loader in CombinedLoader(getattr(data, f"{stage}_dataloader")()).flattened]
    return []


def _check_sets(trainer: DictConfig, data: TensorDataModule) -> None:
    """Check all limits of a `TensorDataModule` that has loaded its sets."""
    batches = len(data.make_batches(data.train_set, train=True))
    overfit = "overfit_batches" if trainer.get("overfit_batches") else None  # Lightning applies it to both sets
    train, val = overfit or "limit_train_batches", overfit or "limit_val_batches"
    taken = _check_batches(train, trainer.get(train, 1.0), batches)
    validates = _check_samples(val, trainer.get(val, 1.0), data.val_set, "validation")
    _check_samples("limit_test_batches", trainer.get("limit_test_batches", 1.0), data.test_set, "test")
    if taken and validates:
        _check_interval(trainer.get("val_check_interval"), taken)


def _check_batches(name: str, limit: int | float, batches: int, set_name: str = "training") -> int:
    """Return the number of batches per epoch that a limit leaves.

    Raises:
        InputError: if a fraction above 0 leaves none.
    """
    if isinstance(limit, int):
        return min(limit, batches)
    if limit > 0 and batches and int(limit * batches) == 0:  # as Lightning calculates it
        raise InputError(
            f"trainer.{name}={limit} of {batches} {set_name} batches is none: give "
            f"{_find_smallest_fraction(batches)} or more, or a "
            "number of batches"
        )
    return int(limit * batches)


def _check_samples(name: str, limit: int | float, samples: Samples | None, set_name: str) -> bool:
    """Return True if a limit leaves any samples of a set.

    Raises:
        InputError: if a fraction above 0 leaves none.
    """
    if samples is None or not samples.size:
        return False
    if isinstance(limit, float) and limit > 0 and count_fraction(limit, samples.size) == 0:
        raise InputError(
            f"trainer.{name}={limit} of {samples.size} {set_name} samples is none: give "
            f"{_find_smallest_fraction(samples.size)} or more"
        )
    return limit > 0


def _find_smallest_fraction(count: int) -> float:
    """Return the smallest fraction with few digits that leaves one of ``count`` items."""
    digits = len(str(count)) + 1
    return math.ceil(10**digits / count) / 10**digits


def refuse_interval(trainer: Trainer) -> None:
    """Refuse an invalid interval between validations when training starts; see `_check_passed_limits`.

    Raises:
        InputError: naming valid numbers of batches.
    """
    batches, interval = trainer.num_training_batches, trainer.val_check_interval
    if trainer.enable_validation and isinstance(batches, int) and interval != 1.0:
        _check_interval(interval, batches)


def _check_interval(interval: int | float | None, batches: int) -> None:
    """Refuse an interval without a validation at the end of the epoch, where the weights are saved.

    Raises:
        InputError: naming valid numbers of batches.
    """
    if interval is None:
        return
    if isinstance(interval, int) and interval > batches:
        raise InputError(f"trainer.val_check_interval={interval}: an epoch has {batches} batches")
    each = interval if isinstance(interval, int) else max(1, int(interval * batches))  # as Lightning calculates it
    if batches % each:
        known = sorted((count for count in range(1, batches + 1) if batches % count == 0), key=lambda n: abs(n - each))
        near = " or ".join(map(str, sorted(known[:2])))
        raise InputError(
            f"trainer.val_check_interval={interval}: after each {each} of {batches} batches the last validation would "
            f"come before the epoch's end, whose weights are kept; use {near} (batches)"
        )
