"""The LightningModule that every model shares: loss, metrics, optimiser, the training step.

The task decides what is measured and which losses there are; the network inside (``self.net``) knows nothing of
training. Sums are kept on the device and read when they are logged, never at each step.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.core.errors import DivergedError, InputError
from src.models.graphs import GraphStep
from src.models.losses import BY_TASK, LOSSES, SMOOTHABLE, penalty
from src.models.steps import take_steps
from src.optimizers.settings import make_optimizer, make_schedule
from src.storage.tensors import open_verified

Settings = dict[str, Any]


class SupervisedModule(LightningModule):
    """A network that learns targets from inputs; a model of its own builds ``self.net``.

    Args:
        in_shape: one input's shape, without the batch.
        num_classes: how many classes there are; 0 for regression.
        task: "multiclass", "binary" or "regression".
        optimizer: ``{"_target_": "torch.optim.Adam", "lr": 0.001, …}``; ``None`` to predict only.
        scheduler: ``{"_target_": …, "interval": "step" or "epoch", …}``, see `make_schedule`; ``None`` keeps the
            learning rate.
        label_smoothing: share of the target's probability spread over all classes in training,
            in [0, 1) (Szegedy et al., 2016).
        loss: a name in `src.models.losses.LOSSES` that suits the task; ``None``: cross entropy for
            classes, squared error for regression.
        reduction: what a step descends on, the "mean" or the "sum" of its samples' losses.
        l1, l2: penalties l1·Σ|w| and l2·Σw² over the weights that are trained, biases left free; they are part of
            what a step descends on, not of the losses that are logged.

    Raises:
        InputError: if the model takes images and ``in_shape`` is not (C, H, W), or if the loss does
            not suit the task.
        DivergedError: while training, when the loss is NaN or infinite.
    """

    net: nn.Module
    images_only = False

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        task: str,
        optimizer: Settings | None = None,
        scheduler: Settings | None = None,
        label_smoothing: float = 0.0,
        loss: str | None = None,
        reduction: str = "mean",
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        if self.images_only and len(in_shape) != 3:
            raise InputError(
                f"{type(self).__name__} takes images of shape (C, H, W), these data have shape {tuple(in_shape)}: "
                "model=mlp takes any shape"
            )
        self.in_shape, self.num_classes, self.task = tuple(in_shape), num_classes, task
        self.out_features = num_classes if task == "multiclass" else 1
        self.example_input_array = torch.zeros(1, *in_shape)  # gives the summary its sizes
        self.optimizer_settings, self.scheduler_settings = optimizer, scheduler
        self.label_smoothing, self.reduction, self.l1, self.l2 = label_smoothing, reduction, l1, l2
        self.loss_name = self.suitable_loss(loss)
        self.train_sums: Tensor | None = None  # (3,): loss·n, correct, n over the epoch so far
        self.evaluated: list[tuple[Tensor, Tensor]] = []  # outputs and targets of the evaluation so far
        self.confusion: Tensor | None = None  # (K, K): true class × predicted class, of the last evaluation
        self.loss_shown: float | None = None  # mean loss up to the last look, for the progress bar
        self.unread: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, outputs, targets since the last look at them
        self.batches_read = self.steps_before = 0  # batches of the epoch up to that look, optimiser steps before it
        self.processes = 1  # that train together
        self.records_steps = False  # as a CUDA graph, where that can be
        self.graph_step: GraphStep | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **settings: Any) -> Self:
        """Make a model from a checkpoint, as Lightning does, once the file's checksums hold.

        Raises:
            InputError: if the file is missing or damaged.
        """
        with open_verified(Path(checkpoint_path)) as file:
            return super().load_from_checkpoint(file, *args, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # (B, *in_shape) → (B, out_features)

    # What the task decides

    def suitable_loss(self, name: str | None) -> str:
        """The loss to train with, by its name."""
        suitable = BY_TASK[self.task]
        if name not in (None, *suitable):
            raise InputError(f"model.loss={name} does not suit {self.task} targets: choose {' or '.join(suitable)}")
        chosen = name or suitable[0]
        if self.label_smoothing and chosen not in SMOOTHABLE:
            raise InputError(f"model.label_smoothing={self.label_smoothing} has no meaning for the loss {chosen}")
        return chosen

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean loss over a batch: outputs (B, out_features), targets (B,) → ()."""
        return LOSSES[self.loss_name](outputs, targets, label_smoothing)

    def objective(self, loss: Tensor, samples: int) -> Tensor:
        """What a step descends on, from the mean loss of so many samples."""
        if self.reduction == "sum":
            loss = loss * samples
        if self.l1 or self.l2:
            weights: list[Tensor] = [weight for weight in self.parameters() if weight.ndim > 1 and weight.requires_grad]
            loss = loss + penalty(weights, self.l1, self.l2)
        return loss

    def predict(self, outputs: Tensor) -> Tensor:
        """Outputs (B, out_features) → predicted classes (B,), or values for regression."""
        if self.task == "multiclass":
            return outputs.argmax(dim=1)
        return (outputs.squeeze(1) > 0).long() if self.task == "binary" else outputs.squeeze(1)

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if not self.automatic_optimization:
            take_steps(self, batch)
            return None
        objective = self.step_loss(batch, batch_idx)
        every, batches = self.trainer.log_every_n_steps, self.trainer.num_training_batches  # type: ignore[attr-defined]
        if self.unread and (self.batches % every == 0 or self.batches == batches):
            self.look_at_losses()
        return objective

    @property
    def batches(self) -> int:
        """Batches of the epoch so far."""
        return self.batches_read + len(self.unread)

    def step_loss(self, batch: tuple[Tensor, Tensor], number: int | None = None) -> Tensor:
        """Return what a step on a batch descends on; the batch is noted, nothing is read from the device.

        Some optimisers evaluate a batch several times in a step (LBFGS, SAM): it is noted the first time.

        Args:
            batch: inputs (B, *in_shape) and targets (B,).
            number: the batch's in its epoch, from 0; ``None``: the next.

        Raises:
            InputError: if a batch among several whose gradients are accumulated is evaluated again.
        """
        inputs, targets = batch
        outputs = self(inputs)
        if outputs.dtype in (torch.bfloat16, torch.half):  # of mixed precision; too coarse for a loss
            outputs = outputs.float()
        loss = self.loss(outputs, targets, self.label_smoothing)
        first = number is None or number >= self.batches
        if not first and self.trainer.accumulate_grad_batches > 1:
            kind = type(self.optimizers(use_pl_optimizer=False)).__name__
            told = f"{kind} evaluates a batch several times in a step, and the batches before it no longer"
            raise InputError(f"trainer.accumulate_grad_batches={self.trainer.accumulate_grad_batches}: {told}; use 1")
        if self.processes > 1:
            return self.shared_objective(loss, outputs, targets, first)
        if first:
            self.unread.append((loss.detach(), outputs.detach(), targets))
        return self.objective(loss, len(targets))

    def shared_objective(self, loss: Tensor, outputs: Tensor, targets: Tensor, first: bool) -> Tensor:
        """Return what this process descends on, from the mean loss of its share of a batch; note it the first time.

        The gradient is averaged over the processes. What each descends on is weighed by the size of its share, so that
        this average is the gradient of what one process would descend on: the mean over all samples, or their sum, and
        the penalties once. Noted is the share's part of the whole batch's mean loss.
        """
        loader, batch = self.trainer.train_dataloader, self.trainer.fit_loop.epoch_loop.batch_idx
        own, whole = len(targets), len(targets) * self.processes  # shares of other loaders count alike
        if count := getattr(loader, "counts", None):
            own, whole = count(batch)
        if not own:
            outputs, targets = outputs[:0], targets[:0]
        if first:
            self.unread.append((loss.detach() * (own / whole), outputs.detach(), targets))
        return self.objective(loss, whole) * (self.processes * own / whole)

    def on_train_epoch_start(self) -> None:
        self.train_sums = None
        self.unread.clear()
        self.batches_read, self.steps_before = 0, self.trainer.global_step
        self.processes = self.trainer.world_size
        refuse_sum_of_parts(self.reduction, self.trainer.accumulate_grad_batches)  # as callbacks may have changed it

    def batch_sums(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss times n, number correct and n of one batch: (3,)."""
        correct = torch.zeros_like(loss) if self.task == "regression" else (self.predict(outputs) == targets).sum()
        count = loss.new_tensor(len(targets)) if loss.device.type == "cpu" else torch.full_like(loss, len(targets))
        return torch.stack([loss * count, correct.to(loss.dtype), count])

    def look_at_losses(self) -> None:
        """Add the batches since the last look to the epoch's sums, log their mean loss; stop if one is not finite."""
        each, outputs, targets = zip(*self.unread, strict=True)
        before = self.batches_read
        self.batches_read = self.batches
        self.unread.clear()
        losses = torch.stack(each).float()
        if self.processes > 1:
            losses = self.over_processes(losses)  # each process has noted its part
        counts = losses.new_tensor([len(part) for part in targets])
        mean = (losses * counts).sum() / counts.sum() if any(map(len, targets)) else losses.new_zeros(())
        sums = self.batch_sums(mean, torch.cat(outputs), torch.cat(targets))
        self.train_sums = sums if self.train_sums is None else self.train_sums + sums
        finite = losses.isfinite()
        if not finite.all():
            first = int((~finite).nonzero()[0])
            self.diverged(float(losses[first]), self.step_of(before + first) + 1)
        self.loss_shown = losses.mean().item()
        for logger in self.loggers:
            logger.log_metrics({"train/loss_step": self.loss_shown}, step=self.step_of(self.batches - 1))

    def step_of(self, batch: int) -> int:
        """The number of optimiser steps before a batch of this epoch."""
        return self.steps_before + batch // self.trainer.accumulate_grad_batches

    def diverged(self, loss: float, step: int) -> None:
        told = divergence(loss, step, self.current_epoch + 1)
        if self.trainer.precision == "16-true":
            told += " (in float16, trainer.precision=16-true: bf16-true and 16-mixed bear larger numbers)"
        raise DivergedError(told)

    def on_train_epoch_end(self) -> None:
        if self.unread:  # trainer.max_steps ended the epoch before its last batch
            self.look_at_losses()
        self.log_sums("train", self.train_sums)

    def log_sums(self, stage: str, sums: Tensor | None) -> None:
        """Log mean loss and accuracy of a stage from its sums over all processes."""
        if sums is None:
            return
        loss, correct, count = self.over_processes(sums).tolist()
        if not math.isfinite(loss) and self.trainer.state.fn == "fit":
            self.diverged(loss / count, self.trainer.global_step)
        metrics = {f"{stage}/loss": loss / count}
        if self.task != "regression":
            metrics[f"{stage}/acc"] = correct / count
        self.log_dict(metrics, prog_bar=stage != "test", sync_dist=True)  # equal by now; else Lightning warns

    def over_processes(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    # Evaluation

    def start_evaluation(self) -> None:
        self.evaluated.clear()

    on_validation_epoch_start = on_test_epoch_start = start_evaluation

    def evaluation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Keep a batch's outputs for the end of the evaluation; returns them, (B, out_features)."""
        inputs, targets = batch
        if not len(targets):  # of a batch with fewer samples than there are processes
            return inputs.new_zeros(0, self.out_features)
        outputs = self(inputs).float()
        self.evaluated.append((outputs, targets))
        return outputs

    validation_step = test_step = evaluation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return what is predicted for a batch's inputs, see `predict`; the batch may be of inputs alone."""
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        return self.predict(self(inputs).float())

    def finish_evaluation(self, stage: str) -> None:
        """Measure all outputs (N, out_features) of the evaluation at once."""
        sums = torch.zeros(3, device=self.device)
        cells = torch.zeros(0, dtype=torch.long, device=self.device)
        if self.evaluated:  # a process may have had no share
            outputs, targets = [torch.cat(parts) for parts in zip(*self.evaluated, strict=True)]
            sums = self.batch_sums(self.loss(outputs, targets), outputs, targets)
            if self.task != "regression":
                cells = targets * self.num_classes + self.predict(outputs)
        self.evaluated.clear()
        confusion = torch.bincount(cells, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
        self.confusion = self.over_processes(confusion)
        self.log_sums(stage, sums)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    # Optimisation

    def parameter_groups(self, lr: float) -> list[Settings]:
        """The parameters to optimise, in groups that may have learning rates of their own."""
        return [{"params": list(self.parameters()), "lr": lr}]

    def configure_optimizers(self) -> Any:
        if self.optimizer_settings is None:
            raise InputError(f"{type(self).__name__} was made without an optimizer: it cannot be trained")
        optimizer = make_optimizer(self.optimizer_settings, self.parameter_groups, self.device.type)
        if not self.scheduler_settings:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Settings:
        assert self.scheduler_settings is not None
        return make_schedule(self.scheduler_settings, optimizer, self.trainer)


def refuse_sum_of_parts(reduction: str | None, parts: int) -> None:
    """Refuse to add up losses over several batches, whose mean is descended on.

    Raises:
        InputError: if the sum is asked for, and there are several.
    """
    if reduction == "sum" and parts > 1:
        raise InputError(
            f"model.reduction=sum adds up the samples of one batch: over {parts} accumulated batches it would be the "
            "mean of their sums; accumulate no gradients, or use model.reduction=mean"
        )


def divergence(loss: float, step: int, epoch: int) -> str:
    """What to tell of a loss that is not finite."""
    how = "lower optimizer.lr or set trainer.gradient_clip_val"
    return f"the loss became {loss} at step {step} (epoch {epoch}): {how}"


def is_fixed(model: LightningModule) -> bool:
    """Return whether a model of ours has no weights that are learned."""
    return isinstance(model, SupervisedModule) and not any(weight.requires_grad for weight in model.parameters())
