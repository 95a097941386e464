"""Number of batches and epochs in a run, for the progress bar and the log."""

import math

from lightning import Trainer


def is_chunked(trainer: Trainer) -> bool:
    """Return True if each batch that Lightning sees is a chunk of several batches of the data module."""
    return hasattr(trainer.train_dataloader, "batches")


def count_batches(trainer: Trainer) -> int:
    """Return the number of batches per epoch; 0 if unknown."""
    if is_chunked(trainer):
        return len(trainer.train_dataloader.batches)  # type: ignore[union-attr]
    count = trainer.num_training_batches
    return int(count) if math.isfinite(count) else 0


def count_all_batches(trainer: Trainer) -> int | None:
    """Return the maximum number of batches in the whole run; ``None`` if unknown."""
    batches, limits = count_batches(trainer), []
    if trainer.max_epochs not in (None, -1):
        limits.append((trainer.max_epochs or 0) * batches)
    if trainer.max_steps != -1:
        accumulated = trainer.accumulate_grad_batches
        # An epoch has ceil(batches / accumulated) steps: its last step may use fewer batches than the others.
        epochs, rest = divmod(trainer.max_steps, -(-batches // accumulated)) if batches else (0, trainer.max_steps)
        limits.append(epochs * batches + rest * accumulated)
    return min((limit for limit in limits if limit), default=None)


def format_epoch(trainer: Trainer, aligned: bool = False) -> str:
    """Return the current and the last epoch as "epoch 3/10", with a question mark if the last one is unknown.

    Args:
        trainer: the run's trainer.
        aligned: pad the epoch's number, so that the text has the same width in every epoch.
    """
    total, batches = count_all_batches(trainer), count_batches(trainer)
    last = -(-total // batches) if total and batches else trainer.max_epochs
    limit = "?" if last in (None, -1) else str(last)
    return f"epoch {trainer.current_epoch + 1:>{len(limit) if aligned else 1}}/{limit}"
