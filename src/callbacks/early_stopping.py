"""An end to training when validation no longer improves."""

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a resumed run takes the patience that it is given, not the one that ended it before.

    With more of it the run has not stopped.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before = state_dict["patience"]
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.patience > before:
            self.stopped_epoch, self.stopping_reason, self.stopping_reason_message = (
                0,
                EarlyStoppingReason.NOT_STOPPED,
                None,
            )
