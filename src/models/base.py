"""The base class of all models: loss, optimiser and training step.

The task determines the metrics and the possible losses; the network inside (``self.net``) knows nothing of training.
"""

import io
from collections.abc import Sequence
from typing import Any, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.core.devices import convert_to_channels_last
from src.core.errors import InputError
from src.data.loading.samples import flatten_targets
from src.data.preprocessing import Preprocessing, read_description
from src.models.chunked_steps import run_optimizer_steps
from src.models.graphs import GraphStep
from src.models.supervision.class_weights import (
    check_class_weights,
    compute_weighted_loss,
    make_class_weights,
    weigh_samples,
)
from src.models.supervision.logged_module import LoggedModule
from src.models.supervision.losses import LOSSES, SMOOTHABLE, compute_penalty
from src.optimizers.settings import make_optimizer, make_schedule
from src.storage.moved import update_hyperparameters
from src.storage.weights import read_checkpoint

Settings = dict[str, Any]


class SupervisedModule(LoggedModule):
    """The base class of supervised models; a subclass builds the network ``self.net``.

    Args:
        in_shape: one input's shape, without the batch.
        num_classes: the number of classes; 0 for regression.
        task: a name in `src.data.tasks.TASKS`.
        optimizer: ``{"_target_": "torch.optim.Adam", "lr": 0.001, …}``; ``None`` to predict only.
        build_scheduler: ``{"_target_": …, "interval": "step" or "epoch", …}``, see `make_schedule`; ``None`` keeps the
            learning rate.
        label_smoothing: fraction of the target's probability that is spread over all classes in
            training, in [0, 1) (Szegedy et al., 2016).
        loss: a name in `src.models.supervision.losses.LOSSES` that suits the task; ``None``: cross entropy for
            classes, squared error for regression.
        reduction: a step minimises the "mean" or the "sum" of its samples' losses.
        class_weights: weight of each class's samples in the training loss, or "balanced": n/(K·n_k), for n training
            samples, n_k of them in the class. The losses of validation and test have no weights.
        l1, l2: penalties l1·Σ|w| and l2·Σw² over the trained weights, without biases; they are part of the
            objective, not of the logged losses.
        num_values: the number of values of a regression.
        num_tokens: the inputs are tokens, int64 from 0 to below this number; 0: they are numbers.

    Raises:
        InputError: if the model does not suit the inputs or the task, or the loss does not suit the task.
    """

    net: nn.Module
    images_only = False
    takes_tokens = False  # True: for inputs that are tokens, and no others
    suited_tasks: tuple[str, ...] = ("multiclass", "binary", "multilabel", "regression")

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
        num_values: int = 1,
        num_tokens: int = 0,
        class_weights: str | Sequence[float] | None = None,
    ) -> None:
        self._check_suited(in_shape, task, num_tokens)
        super().__init__(task, num_classes, num_values)
        self.in_shape, self.num_tokens = tuple(in_shape), num_tokens
        dtype = torch.long if num_tokens else torch.float32
        self.example_input_array = torch.zeros(1, *in_shape, dtype=dtype)  # for the sizes in the model summary
        self.optimizer_settings, self.scheduler_settings = optimizer, scheduler
        self.label_smoothing, self.reduction, self.l1, self.l2 = label_smoothing, reduction, l1, l2
        self.loss_name = self.resolve_loss(loss)
        check_class_weights(class_weights, task, num_classes)
        self.class_weights_setting = class_weights
        self.class_weights: Tensor | None = None  # (K,), known when training starts
        self.class_names: tuple[str, ...] = ()  # read from a checkpoint, as are the two below
        self.value_names: tuple[str, ...] = ()
        self.preprocessing: Preprocessing | None = None
        self.is_loaded = False  # True: loaded from a checkpoint, in evaluation mode, and not trained since
        self.uses_cuda_graphs = False  # True: record steps as CUDA graphs where possible
        self.graph_step: GraphStep | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **settings: Any) -> Self:
        """Load a model from a checkpoint, ready to predict: in evaluation mode, with its class names and preprocessing.

        ``model(model.preprocessing(inputs))`` are the outputs for raw inputs (B, *in_shape); a checkpoint of earlier
        code has neither names nor preprocessing. A trainer's ``fit`` puts the model into training mode again.

        Raises:
            InputError: if the file is missing, damaged or holds other objects than tensors and plain values.
        """
        content = read_checkpoint(checkpoint_path)
        name = f"{cls.__module__}.{cls.__qualname__}"
        content["hyper_parameters"] = update_hyperparameters(name, content.get("hyper_parameters", {}))
        file = io.BytesIO()
        torch.save(content, file)
        file.seek(0)
        model = super().load_from_checkpoint(file, *args, **settings)
        if found := read_description(content, checkpoint_path):
            model.class_names, model.value_names = found.class_names, found.value_names
            model.preprocessing = found.preprocessing
            convert_to_channels_last(model, model.device.type)  # as in the run, whose outputs it repeats exactly
        model.is_loaded = True
        return model.eval()

    def _check_suited(self, in_shape: Sequence[int], task: str, num_tokens: int) -> None:
        """Refuse inputs and tasks that the network is not made for."""
        name = type(self).__name__
        if self.images_only and len(in_shape) != 3:
            raise InputError(
                f"{name} takes images of shape (C, H, W), these data have shape {tuple(in_shape)}: "
                "model=mlp takes any shape"
            )
        if task not in self.suited_tasks:
            hint = ": model=unet gives each pixel a class" if task == "dense" else ""
            suited = ", ".join(self.suited_tasks)
            raise InputError(f"{name} is made for the tasks {suited}, and these data are {task}{hint}")
        if bool(num_tokens) != self.takes_tokens:
            taken, given = ("tokens", "numbers") if self.takes_tokens else ("numbers", "tokens")
            hint = ": model=text takes them" if num_tokens else ""
            raise InputError(f"{name} takes {taken}, and the inputs of these data are {given}{hint}")

    def on_fit_start(self) -> None:
        if self.is_loaded:  # Lightning would train it in evaluation mode
            self.train()
            self.is_loaded = False
        if self.class_weights_setting is not None:
            weights = make_class_weights(self.class_weights_setting, self.trainer, self.num_classes)
            precise = torch.float64 if self.dtype == torch.float64 else torch.float32
            self.class_weights = weights.to(self.device, precise)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # (B, *in_shape) → (B, out_features), for a class per pixel (B, out_features, H, W)

    # Loss and prediction

    def resolve_loss(self, name: str | None) -> str:
        """Return the name of the loss to train with; ``None`` stands for the task's default.

        Raises:
            InputError: if the loss does not suit the task, or label smoothing does not suit the loss.
        """
        suitable = self.kind.losses
        if name not in (None, *suitable):
            raise InputError(f"model.loss={name} does not suit {self.task} targets: choose {' or '.join(suitable)}")
        chosen = name or suitable[0]
        if self.label_smoothing and chosen not in SMOOTHABLE:
            raise InputError(f"model.label_smoothing={self.label_smoothing} has no meaning for the loss {chosen}")
        return chosen

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss over a batch: outputs (B, out_features, …), targets (B, …) → ()."""
        return LOSSES[self.loss_name](outputs, targets, label_smoothing)

    def compute_training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a training batch, with label smoothing and class weights: ().

        Targets of mixed images are shares of the classes (B, K).
        """
        if targets.is_floating_point():
            targets = targets.to(outputs.dtype)
        if self.class_weights is None:
            return self.loss(outputs, targets, self.label_smoothing)
        return compute_weighted_loss(LOSSES[self.loss_name], outputs, targets, self.label_smoothing, self.class_weights)

    def compute_objective(self, loss: Tensor, sample_count: int | Tensor) -> Tensor:
        """Return the objective to minimise, from the mean loss of ``sample_count`` samples, or of that much weight."""
        if self.reduction == "sum":
            loss = loss * sample_count
        if self.l1 or self.l2:
            weights: list[Tensor] = [weight for weight in self.parameters() if weight.ndim > 1 and weight.requires_grad]
            loss = loss + compute_penalty(weights, self.l1, self.l2)
        return loss

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if not self.automatic_optimization:
            run_optimizer_steps(self, batch)
            return None
        objective = self.compute_step_objective(batch, batch_idx)
        every, batches = self.trainer.log_every_n_steps, self.trainer.num_training_batches  # type: ignore[attr-defined]
        if self.pending_batches and (self.num_batches % every == 0 or self.num_batches == batches):
            self.log_losses()
        return objective

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # Check again: callbacks may have changed the accumulation.
        refuse_accumulated_sum(self.reduction, self.trainer.accumulate_grad_batches)

    def compute_step_objective(self, batch: tuple[Tensor, Tensor], batch_index: int | None = None) -> Tensor:
        """Return the objective of a batch, and keep the batch's loss and outputs for `log_losses`.

        Nothing is read from the device. Some optimisers (LBFGS, SAM) evaluate a batch several times in a step; only
        the first evaluation is kept.

        Args:
            batch: inputs (B, *in_shape) and targets (B, …); (B, 1) is taken as (B,).
            batch_index: the batch's index in its epoch, from 0; ``None``: the next.

        Raises:
            InputError: if a batch is evaluated again while gradients are accumulated over several batches.
        """
        inputs, targets = batch[0], flatten_targets(batch[1])
        outputs = self(inputs)
        if outputs.dtype in (torch.bfloat16, torch.half):  # from mixed precision; too coarse for a loss
            outputs = outputs.float()
        loss = self.compute_training_loss(outputs, targets)
        first = batch_index is None or batch_index >= self.num_batches
        if not first and self.trainer.accumulate_grad_batches > 1:
            name = type(self.optimizers(use_pl_optimizer=False)).__name__
            reason = (
                f"{name} evaluates a batch several times in a step, which cannot be combined with accumulated gradients"
            )
            raise InputError(f"trainer.accumulate_grad_batches={self.trainer.accumulate_grad_batches}: {reason}; use 1")
        if self.num_processes > 1:
            return self.compute_shard_objective(loss, outputs, targets, first)
        if first:
            self.pending_batches.append((loss.detach(), outputs.detach(), targets))
        return self.compute_objective(loss, self.weigh_batch(targets))

    def weigh_batch(self, targets: Tensor) -> int | Tensor:
        """Return the weight of a batch in a sum of losses: its number of samples, or with class weights their sum."""
        return len(targets) if self.class_weights is None else weigh_samples(targets, self.class_weights).sum()

    def compute_shard_objective(self, loss: Tensor, outputs: Tensor, targets: Tensor, is_first: bool) -> Tensor:
        """Return this rank's objective from the mean loss of its shard of a batch; keep the loss the first time.

        Args:
            loss: mean over the shard, ().
            outputs: of the shard, (B, out_features).
            targets: of the shard, (B,).
            is_first: this is the batch's first evaluation, to be kept for `log_losses`.
        """
        # DDP averages the gradient over the ranks. Weighting each rank's objective by the size of its shard makes that
        # average the gradient that a single process would compute: of the mean over all samples, or of their sum, with
        # the penalties counted once. The loss that is kept is the shard's contribution to the whole batch's mean loss.
        loader, batch = self.trainer.train_dataloader, self.trainer.fit_loop.epoch_loop.batch_idx
        size: int | Tensor
        total: int | Tensor
        size, total = len(targets), len(targets) * self.num_processes  # other loaders: shards of equal size
        if count := getattr(loader, "count_samples", None):
            size, total = count(batch)
        if not size:
            outputs, targets = outputs[:0], targets[:0]
        if self.class_weights is not None:
            size = weigh_samples(targets, self.class_weights).sum()
            total = self.all_reduce(size.clone())
        if is_first:
            self.pending_batches.append((loss.detach() * (size / total), outputs.detach(), targets))
        return self.compute_objective(loss, total) * (self.num_processes * size / total)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the predictions for a batch, see `predict`; a batch may be inputs without targets."""
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        return self.predict(self(inputs).float())

    # Optimisation

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        """Return the parameters to optimise, in groups that may have their own learning rates."""
        return [{"params": list(self.parameters()), "lr": lr}]

    def configure_optimizers(self) -> Any:
        if self.optimizer_settings is None:
            raise InputError(f"{type(self).__name__} was made without an optimizer: it cannot be trained")
        optimizer = make_optimizer(self.optimizer_settings, self.get_parameter_groups, self.device.type)
        if not self.scheduler_settings:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.build_scheduler(optimizer)}

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> Settings:
        assert self.scheduler_settings is not None
        return make_schedule(self.scheduler_settings, optimizer, self.trainer)


def refuse_accumulated_sum(reduction: str | None, accumulated_batches: int) -> None:
    """Refuse the reduction "sum" with gradients accumulated over several batches, which Lightning averages.

    Raises:
        InputError: if ``reduction`` is "sum" and ``accumulated_batches``, the number of batches per step, is above 1.
    """
    if reduction == "sum" and accumulated_batches > 1:
        raise InputError(
            f"model.reduction=sum adds up the samples of one batch: over {accumulated_batches} accumulated "
            "batches it would be the "
            "mean of their sums; accumulate no gradients, or use model.reduction=mean"
        )


def is_untrainable(model: LightningModule) -> bool:
    """Return True if a model is a `SupervisedModule` without trainable weights."""
    return isinstance(model, SupervisedModule) and not any(weight.requires_grad for weight in model.parameters())
