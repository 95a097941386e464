"""What a supervised model logs: the losses of its training steps, and the metrics of an evaluation.

Sums stay on the device and are read only when they are logged, because reading them at each step would wait for it.
"""

import math

import torch
from lightning import LightningModule
from torch import Tensor

from src.core.errors import DivergedError
from src.data.loading.samples import flatten_targets
from src.data.own.labels import IGNORED
from src.data.tasks import get_task
from src.models.supervision.metrics import Metric, compute_metrics


class LoggedModule(LightningModule):
    """The part of a supervised model that logs; a subclass has the network, the loss and the predictions.

    Args:
        task: a name in `src.data.tasks.TASKS`.
        num_classes: the number of classes; 0 for regression.
        num_values: the number of values of a regression.

    Raises:
        DivergedError: while training, when the loss is NaN or infinite.
    """

    def __init__(self, task: str, num_classes: int, num_values: int) -> None:
        super().__init__()
        self.task, self.kind, self.num_classes, self.num_values = task, get_task(task), num_classes, num_values
        self.out_features = self.kind.count_outputs(num_classes, num_values)
        self.train_sums: Tensor | None = None  # (3,): loss·n, correct, n over the epoch so far
        self.eval_outputs: list[tuple[Tensor, Tensor]] = []  # outputs and targets of the evaluation so far
        self.eval_sums: list[tuple[Tensor, Tensor]] = []  # in their place for a class per pixel, see `sum_pixels`
        self.metrics: dict[str, Metric] = {}  # further metrics of an evaluation, by name
        self.confusion: Tensor | None = None  # of the last evaluation, see `src.data.tasks.Task.count_confusion`
        self.last_logged_loss: float | None = None  # mean loss when losses were last logged, for the progress bar
        self.pending_batches: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, outputs, targets not logged yet
        self.logged_batches = 0  # of this epoch
        self.epoch_start_step = 0  # optimiser steps before this epoch
        self.num_processes = 1  # number of processes that train this model together

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch: outputs (B, out_features, …), targets (B, …) → ()."""
        raise AttributeError(f"{type(self).__name__} must define loss()")

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the predicted classes or labels, or the values for regression: (B, out_features, …) → (B, …)."""
        return self.kind.predict(outputs)

    # Training

    @property
    def num_batches(self) -> int:
        """The number of batches of this epoch so far."""
        return self.logged_batches + len(self.pending_batches)

    def on_train_epoch_start(self) -> None:
        self.train_sums = None
        self.pending_batches.clear()
        self.logged_batches, self.epoch_start_step = 0, self.trainer.global_step
        self.num_processes = self.trainer.world_size

    def compute_batch_sums(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return loss times n, number of correct predictions and n of a batch of n samples: (3,).

        Of a mixed image, the class with the largest share is the correct one.
        """
        if self.task == "multiclass" and targets.ndim == 2:
            targets = targets.argmax(dim=1)
        correct = torch.zeros_like(loss)
        if self.kind.has_classes:
            correct = self.kind.count_correct(self.predict(outputs), targets)
        count = loss.new_tensor(len(targets)) if loss.device.type == "cpu" else torch.full_like(loss, len(targets))
        return torch.stack([loss * count, correct.to(loss.dtype), count])

    def log_losses(self) -> None:
        """Add the batches that are not logged yet to the epoch's sums, and log their mean loss.

        Raises:
            DivergedError: if one of their losses is not finite.
        """
        batch_losses, outputs, targets = zip(*self.pending_batches, strict=True)
        before = self.logged_batches
        self.logged_batches = self.num_batches
        self.pending_batches.clear()
        losses = torch.stack(batch_losses).float()
        if self.num_processes > 1:
            losses = self.all_reduce(losses)  # each rank has its contribution to the mean
        counts = losses.new_tensor([len(part) for part in targets])
        mean = (losses * counts).sum() / counts.sum() if any(map(len, targets)) else losses.new_zeros(())
        sums = self.compute_batch_sums(mean, torch.cat(outputs), torch.cat(targets))
        self.train_sums = sums if self.train_sums is None else self.train_sums + sums
        finite = losses.isfinite()
        if not finite.all():
            first = int((~finite).nonzero()[0])
            self.raise_diverged(float(losses[first]), self.count_steps_before(before + first) + 1)
        self.last_logged_loss = losses.mean().item()
        for logger in self.loggers:
            logger.log_metrics(
                {"train/loss_step": self.last_logged_loss}, step=self.count_steps_before(self.num_batches - 1)
            )

    def count_steps_before(self, batch_index: int) -> int:
        """Return the number of optimiser steps before a batch of this epoch, by the batch's index."""
        return self.epoch_start_step + batch_index // self.trainer.accumulate_grad_batches

    def raise_diverged(self, loss: float, step: int) -> None:
        message = format_divergence(loss, step, self.current_epoch + 1)
        if self.trainer.precision == "16-true":
            message += " (in float16, trainer.precision=16-true: bf16-true and 16-mixed represent larger numbers)"
        raise DivergedError(message)

    def on_train_epoch_end(self) -> None:
        if self.pending_batches:  # trainer.max_steps ended the epoch before its last batch
            self.log_losses()
        self.log_sums("train", self.train_sums)

    def log_sums(self, stage: str, sums: Tensor | None) -> None:
        """Log mean loss and accuracy of a stage from this rank's sums (3,), see `compute_batch_sums`."""
        if sums is None:
            return
        loss, correct, count = self.all_reduce(sums).tolist()
        if not math.isfinite(loss) and self.trainer.state.fn == "fit":
            self.raise_diverged(loss / count, self.trainer.global_step)
        metrics = {f"{stage}/loss": loss / count}
        if self.kind.has_classes:
            metrics[f"{stage}/acc"] = correct / count
        # The metrics are already equal on all ranks; without sync_dist Lightning would warn.
        self.log_dict(metrics, prog_bar=stage != "test", sync_dist=True)

    def all_reduce(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    # Evaluation

    def start_evaluation(self) -> None:
        self.eval_outputs.clear()
        self.eval_sums.clear()

    on_validation_epoch_start = on_test_epoch_start = start_evaluation

    def evaluate_batch(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Keep a batch's outputs, or sums of them, for the end of the evaluation; return them, (B, out_features, …)."""
        inputs, targets = batch[0], flatten_targets(batch[1])
        if not len(targets):  # the batch has fewer samples than there are ranks
            return torch.zeros(0, self.out_features, device=inputs.device)
        outputs = self(inputs).float()
        if self.task == "dense" and not self.metrics:  # several numbers for each pixel are too many to keep
            self.eval_sums.append(self.sum_pixels(outputs, targets))
        else:
            self.eval_outputs.append((outputs, targets))
        return outputs

    validation_step = test_step = evaluate_batch

    def sum_pixels(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums over a batch of masks, (4,): loss times pixels, pixels, correct, n; and the confusion (K, K)."""
        predictions, pixels = self.predict(outputs), (targets != IGNORED).sum()
        loss = torch.where(pixels > 0, self.loss(outputs, targets), 0.0)  # of no pixel it would be NaN
        correct = self.kind.count_correct(predictions, targets)
        sums = torch.stack([loss * pixels, pixels, correct, torch.full_like(loss, len(targets))])
        return sums, self.kind.count_confusion(targets, predictions, self.num_classes)

    def finish_evaluation(self, stage: str) -> None:
        """Compute and log the metrics of a stage from all outputs of the evaluation, or their sums."""
        sums, counts = self._sum_evaluation()
        self.log_sums(stage, sums)
        if self.kind.has_classes:
            self.confusion = self.all_reduce(counts)
            further = {name: compute(self.confusion) for name, compute in self.kind.confusion_metrics.items()}
            self.log_dict({f"{stage}/{name}": value for name, value in further.items()}, sync_dist=True)
        if self.metrics:
            self.log_chosen_metrics(stage)
        self.start_evaluation()

    def _sum_evaluation(self) -> tuple[Tensor, Tensor]:
        """Return loss times n, number of correct predictions and n, (3,), and the confusion if there are classes."""
        if self.eval_sums:
            parts, confusions = zip(*self.eval_sums, strict=True)
            loss, pixels, correct, count = torch.stack(parts).sum(dim=0)
            return torch.stack([loss / pixels * count, correct, count]), torch.stack(confusions).sum(dim=0)
        sums = torch.zeros(3, device=self.device)
        predictions = targets = torch.zeros(0, self.num_classes, dtype=torch.long, device=self.device)
        if self.eval_outputs:  # a rank may have received no samples
            outputs, targets = [torch.cat(parts) for parts in zip(*self.eval_outputs, strict=True)]
            sums = self.compute_batch_sums(self.loss(outputs, targets), outputs, targets)
            if not self.kind.has_classes:
                return sums, sums
            predictions = self.predict(outputs)
        return sums, self.kind.count_confusion(targets, predictions, self.num_classes)

    def log_chosen_metrics(self, stage: str) -> None:
        """Compute and log the metrics that the setting ``metrics`` names, from the outputs of all processes."""
        width = [self.out_features] if self.task == "multilabel" or self.num_values > 1 else []
        dtype = torch.long if self.kind.has_classes else torch.float32
        outputs, targets = torch.zeros(0, self.out_features), torch.zeros(0, *width)
        nothing = outputs.to(self.device), targets.to(self.device, dtype)  # a rank may have received no samples
        outputs, targets = (torch.cat(parts) for parts in zip(nothing, *self.eval_outputs, strict=True))
        found = compute_metrics(self.metrics, outputs, targets.to(dtype), self.trainer.world_size)
        named = {f"{stage}/{name}": value for name, value in found.items()}
        self.log_dict(named, prog_bar=stage != "test", sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")


def format_divergence(loss: float, step: int, epoch: int) -> str:
    """Return the error message for a loss that is not finite."""
    remedy = "lower optimizer.lr or set trainer.gradient_clip_val"
    return f"the loss became {loss} at step {step} (epoch {epoch}): {remedy}"
