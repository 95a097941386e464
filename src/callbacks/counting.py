"""How many batches and epochs a run has, as the progress bar and the log tell them."""

import math

from lightning import Trainer


def is_chunked(trainer: Trainer) -> bool:
    """Return whether a batch of Lightning's is several of the data module's."""
    return hasattr(trainer.train_dataloader, "batches")


def count_batches(trainer: Trainer) -> int:
    """Return how many batches an epoch has; 0 if that is not known."""
    if is_chunked(trainer):
        return len(trainer.train_dataloader.batches)  # type: ignore[union-attr]
    count = trainer.num_training_batches
    return int(count) if math.isfinite(count) else 0


def count_all(trainer: Trainer) -> int | None:
    """Return how many batches the run has at most; ``None`` if that is not known."""
    batches, limits = count_batches(trainer), []
    if trainer.max_epochs not in (None, -1):
        limits.append((trainer.max_epochs or 0) * batches)
    if trainer.max_steps != -1:
        parts = trainer.accumulate_grad_batches
        whole, rest = divmod(trainer.max_steps, -(-batches // parts)) if batches else (0, trainer.max_steps)
        limits.append(whole * batches + rest * parts)
    return min((limit for limit in limits if limit), default=None)


def name_epoch(trainer: Trainer, aligned: bool = False) -> str:
    """Return "epoch 3/10" for the epoch under way and the last; a question mark where that is not known.

    Args:
        trainer: whose epoch it is.
        aligned: as wide for each epoch.
    """
    total, batches = count_all(trainer), count_batches(trainer)
    last = -(-total // batches) if total and batches else trainer.max_epochs
    limit = "?" if last in (None, -1) else str(last)
    return f"epoch {trainer.current_epoch + 1:>{len(limit) if aligned else 1}}/{limit}"
