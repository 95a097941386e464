"""Early stopping that fits resumed runs and finds a metric under any spelling of its name (val/loss, val_loss)."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from src.callbacks.monitor import describe_unmeasured, format_metric_name
from src.core.errors import InputError


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, but a resumed run uses its new ``patience``, not the one in the checkpoint.

    A run that early stopping has ended continues if it is resumed with more patience.

    Raises:
        InputError: if no metric has the name in ``monitor``.
    """

    validated = False

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=format_metric_name(self.monitor), mode=self.mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_monitored_metric(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking
        if not self._check_on_train_epoch_end and self.has_monitored_metric(trainer):
            super().on_validation_end(trainer, pl_module)

    def has_monitored_metric(self, trainer: Trainer) -> bool:
        """Return True if the monitored metric has been logged.

        It is missing before the first validation, for example if trainer.max_steps ends training earlier.
        """
        names = {format_metric_name(name): name for name in trainer.callback_metrics}
        if self.monitor in trainer.callback_metrics:
            return True
        if format_metric_name(self.monitor) in names:
            self.monitor = names[format_metric_name(self.monitor)]  # the name that the model logs
            return True
        if trainer.enable_validation and not self.validated:
            return False
        raise InputError(describe_unmeasured("monitor", self.monitor, names))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved_patience = state_dict["patience"]
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.patience > saved_patience:
            self.stopped_epoch, self.stopping_reason, self.stopping_reason_message = (
                0,
                EarlyStoppingReason.NOT_STOPPED,
                None,
            )
