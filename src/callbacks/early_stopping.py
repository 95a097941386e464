"""An end to training when validation no longer improves."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from src.callbacks.monitor import spell_metric, tell_unmeasured
from src.core.errors import InputError


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a resumed run takes the patience that it is given, not the one that ended it before.

    With more of it the run has not stopped.

    Raises:
        InputError: if no metric has the name of ``monitor``.
    """

    validated = False

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=spell_metric(self.monitor), mode=self.mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.measured(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking
        if not self._check_on_train_epoch_end and self.measured(trainer):
            super().on_validation_end(trainer, pl_module)

    def measured(self, trainer: Trainer) -> bool:
        """Return whether there is something to judge by; not where trainer.max_steps ends before a validation."""
        names = {spell_metric(name): name for name in trainer.callback_metrics}
        if self.monitor in trainer.callback_metrics:
            return True
        if spell_metric(self.monitor) in names:
            self.monitor = names[spell_metric(self.monitor)]  # as the model logs it
            return True
        if trainer.enable_validation and not self.validated:
            return False
        raise InputError(tell_unmeasured("monitor", self.monitor, names))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before = state_dict["patience"]
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.patience > before:
            self.stopped_epoch, self.stopping_reason, self.stopping_reason_message = (
                0,
                EarlyStoppingReason.NOT_STOPPED,
                None,
            )
