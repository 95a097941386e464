"""An end to training when validation no longer improves."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from src.errors import InputError


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a resumed run takes the patience that it is given, not the one that ended it before.

    With more of it the run has not stopped.

    Raises:
        InputError: if no metric has the name of ``monitor``.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.measured(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.measured(trainer):
            super().on_validation_end(trainer, pl_module)

    def measured(self, trainer: Trainer) -> bool:
        """Return whether there is something to judge by; not where trainer.max_steps ends before a validation."""
        names = sorted(trainer.callback_metrics)
        if self.monitor in names:
            return True
        if self.monitor.startswith("val/") and not any(name.startswith("val/") for name in names):
            return False
        raise InputError(f"callbacks.early_stopping.monitor={self.monitor}: there are {', '.join(names)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before = state_dict["patience"]
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.patience > before:
            self.stopped_epoch, self.stopping_reason, self.stopping_reason_message = (
                0,
                EarlyStoppingReason.NOT_STOPPED,
                None,
            )
