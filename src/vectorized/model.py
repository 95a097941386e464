"""k networks trained as one: a step of the stack is a step of each network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.callbacks.epoch_seed import compute_epoch_seed
from src.core.devices import choose_sum_dtype
from src.data.loading.samples import Samples
from src.models.base import SupervisedModule
from src.models.supervision.losses import LOSSES, compute_gradient
from src.vectorized.batches import StackedBatches
from src.vectorized.networks.backward import AutogradBackward, BackwardMethod, ManualBackward, find_plain_layers
from src.vectorized.networks.layers import StackedDropout, list_names, select_networks, stack_networks
from src.vectorized.networks.parameters import State, copy_common, make_blocks, name_state, select_rows
from src.vectorized.networks.random_numbers import BatchedRandomNumbers
from src.vectorized.optimizers import Hyperparameters
from src.vectorized.schedules import Schedules

RateLog = list[tuple[int, list[float]]]  # (step, learning rate of each parameter group)
LossLog = list[tuple[int, float]]  # (last step of an interval, mean loss over the interval)


class StackMetrics(NamedTuple):
    """The metrics of each job over a set of samples.

    Attributes:
        loss: mean loss, (k,).
        acc: fraction of correct predictions, (k,); ``None`` for regression.
        confusion: true class × predicted class, (k, K, K); ``None`` for regression and in training.
    """

    loss: Tensor
    acc: Tensor | None
    confusion: Tensor | None = None


class EpochResults(NamedTuple):
    """The results of an epoch of training.

    Attributes:
        metrics: the metrics over the epoch's batches.
        logged_losses: each job's logged losses.
        logged_rates: each job's logged learning rates, of all parameter groups.
        nonfinite_losses: for each job with a non-finite loss, the first such step (from 1) and its loss.
    """

    metrics: StackMetrics
    logged_losses: list[LossLog]
    logged_rates: list[RateLog]
    nonfinite_losses: dict[int, tuple[int, float]]


class StackedModel:
    """k models trained together.

    Args:
        models: the models with their initial weights, which are copied.
        seeds: each job's seed for dropout and augmentation.
        feed: the jobs' batches.
        schedules: the schedules of the jobs' optimisers.
        log_interval: number of steps between two logged losses.
        eval_batch: number of samples in a batch of an evaluation.
        stacked: the network of all jobs and the names of its parameters by group, if they are stacked already.
    """

    def __init__(
        self,
        models: Sequence[SupervisedModule],
        seeds: Sequence[int],
        feed: StackedBatches,
        schedules: Schedules,
        log_interval: int,
        eval_batch: int,
        stacked: tuple[nn.Module, list[list[str]]] | None = None,
    ) -> None:
        self.models, self.first_model, self.k = models, models[0], len(models)
        self.seeds, self.feed, self.schedules = seeds, feed, schedules
        self.log_interval, self.eval_batch = log_interval, eval_batch
        self.net = stacked[0] if stacked else stack_networks([model.net for model in models])
        self.net.to(feed.device, feed.dtype)
        self.weights = [weight for weight in self.net.parameters() if weight.ndim > 2]  # biases are (k, out)
        self.parameter_names = stacked[1] if stacked else _group_parameter_names(models, self.net)
        self.blocks = make_blocks(self.net, self.parameter_names)
        self.optimizers = [self.schedules.build_optimizer(block.group, block.theta) for block in self.blocks]
        trained = dict(self.net.named_parameters())
        self.buffers = {f"net.{name}": value for name, value in self.net.state_dict().items() if name not in trained}
        # On a CPU every job draws from a generator, the same numbers as alone; a GPU draws for all jobs at once.
        self.generators = [torch.Generator(feed.device) for _ in models]
        self.random_numbers = None if feed.device.type == "cpu" else BatchedRandomNumbers(feed.device)
        for layer in self.net.modules():
            if isinstance(layer, StackedDropout):
                layer.generators, layer.random_numbers = self.generators, self.random_numbers
        self.smoothing = [model.label_smoothing for model in models]
        self.penalties = [self.make_column([getattr(model, name) for model in models]) for name in ("l1", "l2")]
        self.has_penalties = any(bool(penalty.any()) for penalty in self.penalties)
        self.backward = self.choose_backward()
        self.epoch = self.steps = 0

    def make_column(self, values: Sequence[float]) -> Tensor:
        """Return one number per job as a tensor (k,)."""
        return torch.tensor(values, dtype=self.feed.dtype, device=self.feed.device)

    def choose_backward(self) -> BackwardMethod:
        """Return the method to compute gradients: explicit formulas if the network is simple enough, else autograd."""
        layers = None if self.has_penalties else find_plain_layers(self.net, self.blocks)
        if layers is None:
            return AutogradBackward(self.net, self.blocks, self.compute_objective)
        return ManualBackward(layers[0], layers[1], self.compute_derivative, self.blocks)

    # Training

    def train_epoch(self) -> EpochResults:
        """Train for one epoch."""
        self.net.train()
        seeds = [compute_epoch_seed(seed, self.epoch) for seed in self.seeds]
        for seed, generator in zip(seeds, self.generators, strict=True):
            generator.manual_seed(seed)
        if self.random_numbers is not None:
            self.random_numbers.reset(seeds)
        numbers, count = self.schedules.step_epoch(len(self.feed)), len(self.feed)
        # What the optimisers need in each step is computed once per epoch: a step of small networks is mostly overhead.
        plans = [
            update.prepare_steps(numbers[block.group], self.steps, count)
            for update, block in zip(self.optimizers, self.blocks, strict=True)
        ]
        metrics = EpochMetrics(self, self.log_interval)
        batches = self.feed.iter_epoch(self.epoch, self.generators, self.random_numbers)
        for (inputs, targets), *steps in zip(batches, *plans, strict=True):
            outputs, gradients = self.backward(inputs, targets)
            with torch.no_grad():
                for update, block, gradient, step in zip(self.optimizers, self.blocks, gradients, steps, strict=True):
                    update(gradient if block.mask is None else gradient.mul_(block.mask), step)
            metrics.add(outputs, targets)
        self.steps += count
        self.epoch += 1
        return metrics.summarize(self.get_learning_rates(numbers, count))

    def get_learning_rates(self, hyperparameters: Sequence[Hyperparameters], count: int) -> list[RateLog]:
        """Return the learning rates of the last epoch, at the steps where Lightning's LearningRateMonitor logs them.

        That is the epoch's first step; or every ``log_interval`` steps if the rates change in every step.
        """
        before = self.steps - count
        at = (
            [step for step in range(count) if (before + step + 1) % self.log_interval == 0]
            if self.schedules.is_stepwise
            else [0]
        )
        chosen = torch.stack([group["lr"][at] for group in hyperparameters], dim=2)  # (T, k, groups)
        steps = [before + step for step in at]
        return [list(zip(steps, rates, strict=True)) for rates in chosen.transpose(0, 1).tolist()]

    def compute_losses(self, outputs: Tensor, targets: Tensor, smoothing: Sequence[float] | None = None) -> Tensor:
        """Return the loss of each sample: outputs (B, k, out), targets (B, k) → (B, k).

        Args:
            outputs: (B, k, out).
            targets: (B, k).
            smoothing: each job's label smoothing; ``None``: that of its training.
        """

        def compute_smoothed_loss(amount: float) -> Tensor:
            rows = LOSSES[self.first_model.loss_name](outputs.flatten(0, 1), targets.reshape(-1), amount, "none")
            return rows.view(targets.shape)

        return self.apply_smoothing(compute_smoothed_loss, self.smoothing if smoothing is None else smoothing)

    def apply_smoothing(self, function: Callable[[float], Tensor], smoothing: Sequence[float]) -> Tensor:
        """Return a function of the label smoothing, evaluated with each job's own amount.

        The function is linear in the amount: if the amounts differ, interpolate between its values at 0 and 1.
        """
        if len(set(smoothing)) == 1:
            return function(smoothing[0])
        hard, soft = function(0.0), function(1.0)
        return hard + self.make_column(smoothing).view(1, self.k, *[1] * (hard.ndim - 2)) * (soft - hard)

    def get_loss_scale(self, samples: int) -> float:
        """Return the weight of a sample's loss in the objective."""
        return 1.0 if self.first_model.reduction == "sum" else 1 / samples

    def compute_objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the objective that a step minimizes for each job: outputs (B, k, out), targets (B, k) → (k,)."""
        losses = self.compute_losses(outputs, targets).sum(dim=0) * self.get_loss_scale(len(targets))
        return losses + self.compute_penalties() if self.has_penalties else losses

    def compute_derivative(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of the objective without penalties with respect to the outputs: (B, k, out)."""

        def compute_smoothed_gradient(amount: float) -> Tensor:
            rows = compute_gradient(self.first_model.loss_name, outputs.flatten(0, 1), targets.reshape(-1), amount)
            return rows.view(outputs.shape)

        found, scale = (
            self.apply_smoothing(compute_smoothed_gradient, self.smoothing),
            self.get_loss_scale(len(targets)),
        )
        return found if scale == 1 else found * scale

    def compute_penalties(self) -> Tensor:
        """Return the L1 and L2 penalties on each job's weights, (k,)."""
        flat = torch.cat([weight.flatten(1) for weight in self.weights], dim=1)
        l1, l2 = self.penalties
        return l1 * flat.abs().sum(dim=1) + l2 * flat.square().sum(dim=1)

    # Evaluation

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> StackMetrics:
        """Return loss, accuracy and confusion matrix of each job on stored samples."""
        self.net.eval()
        classes, no_smoothing = self.first_model.num_classes, [0.0] * self.k
        sums = torch.zeros(2, self.k, dtype=choose_sum_dtype(self.feed.device.type), device=self.feed.device)
        cells = torch.zeros(self.k * classes**2, dtype=torch.long, device=self.feed.device)
        # Flat index of a cell in the matrices (k, K, K): first cell of the job + true class · K + predicted class.
        first = torch.arange(self.k, device=self.feed.device) * classes**2
        for inputs, targets in zip(*(part.split(self.eval_batch) for part in samples), strict=True):
            outputs = self.net(self.feed.transform_inputs(inputs.to(self.feed.device))).view(len(inputs), self.k, -1)
            truth = targets.to(self.feed.device).unsqueeze(1).expand(-1, self.k)  # (B, k)
            sums[0] += self.compute_losses(outputs, truth, no_smoothing).sum(dim=0, dtype=sums.dtype)
            if classes:
                predicted = self.first_model.predict(outputs.flatten(0, 1)).view(truth.shape)
                sums[1] += (predicted == truth).sum(dim=0)
                cells += torch.bincount((first + truth * classes + predicted).flatten(), minlength=len(cells))
        loss, correct = sums / samples.size
        return (
            StackMetrics(loss, correct, cells.view(self.k, classes, classes)) if classes else StackMetrics(loss, None)
        )

    # State

    @property
    def mutable_state(self) -> State:
        """The present state of everything that training changes: name → values (k, …), not copied."""
        own = {f"theta.{number}": block.theta for number, block in enumerate(self.blocks)}
        for number, update in enumerate(self.optimizers):
            own |= {f"update.{number}.{name}": values for name, values in update.state.items()}
        return own | self.buffers

    def load_state(self, state: State) -> None:
        """Load a state of the same jobs; entries that it lacks stay unchanged."""
        own = self.mutable_state
        with torch.no_grad():
            for name, values in state.items():
                own[name].copy_(values)

    def name_state(self, state: State) -> State:
        """Return a state with a view (k, …) for each parameter and statistic, which stacks of other widths have too."""
        return name_state(self.blocks, state)

    def copy_named(self, target: State, named: State) -> None:
        """Copy a named state, possibly of a stack of other widths, to a state of this one."""
        for name, values in self.name_state(target).items():
            copy_common(values, named[name])

    def resume_from(self, state: State, epoch: int) -> None:
        """Load the state after ``summarize`` epochs, and advance the schedules to it."""
        self.load_state(state)
        for _ in range(epoch - self.epoch):
            self.schedules.step_epoch(len(self.feed))
        self.epoch, self.steps = epoch, epoch * len(self.feed)

    def select_jobs(self, indices: Sequence[int]) -> "StackedModel":
        """Return a stack of some of the jobs in their present state, as wide as this one."""
        models, seeds = [self.models[job] for job in indices], [self.seeds[job] for job in indices]
        fewer = StackedModel(
            models,
            seeds,
            self.feed.select_jobs(indices),
            self.schedules.select_jobs(indices),
            self.log_interval,
            self.eval_batch,
            (select_networks(self.net, indices), self.parameter_names),
        )
        fewer.load_state(select_rows(self.mutable_state, indices))
        fewer.epoch, fewer.steps = self.epoch, self.steps
        return fewer


class EpochMetrics:
    """Accumulates the metrics of an epoch; evaluates losses for several steps at once, to save operations.

    Args:
        stack: the stack that is trained.
        log_interval: number of steps between two evaluations.
    """

    def __init__(self, stack: StackedModel, log_interval: int) -> None:
        self.stack, self.step_count, self.log_interval = stack, stack.steps, log_interval
        self.pending_steps: list[tuple[Tensor, Tensor]] = []
        self.sums: Tensor | None = None  # (2, k): loss·n, correct
        self.samples = 0
        self.logged_losses: list[tuple[int, Tensor]] = []
        self.nonfinite_losses: dict[int, tuple[int, float]] = {}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add the outputs (B, k, out) and targets (B, k) of a step."""
        self.pending_steps.append((outputs, targets))
        if len(self.pending_steps) == self.log_interval:
            self.evaluate_pending_steps()

    @torch.no_grad()
    def evaluate_pending_steps(self) -> None:
        outputs, targets = (torch.cat(parts) for parts in zip(*self.pending_steps, strict=True))  # (T·B, k, …)
        counts = [len(part) for _, part in self.pending_steps]
        self.pending_steps.clear()
        rows = self.stack.compute_losses(outputs, targets)
        losses = torch.stack([part.mean(dim=0) for part in rows.split(counts)])  # (T, k)
        correct = torch.zeros_like(rows[0])
        if self.stack.first_model.kind.has_classes:
            predicted = self.stack.first_model.predict(outputs.flatten(0, 1)).view(targets.shape)
            correct = (predicted == targets).sum(dim=0).to(rows.dtype)
        sums = torch.stack([rows.sum(dim=0), correct]).to(choose_sum_dtype(rows.device.type))
        self.sums = sums if self.sums is None else self.sums + sums
        self.samples += len(targets)
        if not losses.isfinite().all():
            self.record_nonfinite_losses(losses)
        self.step_count += len(counts)
        self.logged_losses.append((self.step_count - 1, losses.mean(dim=0)))

    def record_nonfinite_losses(self, losses: Tensor) -> None:
        """Record each job's first non-finite loss among the losses (T, k)."""
        for job in (~losses.isfinite()).any(dim=0).nonzero().flatten().tolist():
            index = int((~losses[:, job].isfinite()).nonzero()[0])
            self.nonfinite_losses.setdefault(job, (self.step_count + index + 1, float(losses[index, job])))

    def summarize(self, logged_rates: list[RateLog]) -> EpochResults:
        """Return the results of the whole epoch, with the given learning rates of each job."""
        if self.pending_steps:
            self.evaluate_pending_steps()
        assert self.sums is not None
        loss, correct = self.sums / self.samples
        acc = correct if self.stack.first_model.kind.has_classes else None
        means = torch.stack(
            [mean for _, mean in self.logged_losses], dim=1
        ).tolist()  # (k, looks); one copy from the device
        looks = [[(step, mean) for (step, _), mean in zip(self.logged_losses, row, strict=True)] for row in means]
        return EpochResults(StackMetrics(loss, acc), looks, logged_rates, self.nonfinite_losses)


def _group_parameter_names(models: Sequence[SupervisedModule], net: nn.Module) -> list[list[str]]:
    """Return the names of the stacked network's trainable parameters, by parameter group, in its order."""
    groups: list[set[str]] = []
    seen: set[tuple[str, ...]] = set()
    for model in models:
        own = {parameter: name for name, parameter in model.net.named_parameters()}
        if (structure := tuple(own.values())) in seen:
            continue
        seen.add(structure)
        names = {name: slot for slot, name in list_names(model.net)}
        for number, group in enumerate(model.get_parameter_groups(lr=0.0)):
            groups += [set()] * (number == len(groups))
            groups[number] |= {names[own[each]] for each in group["params"] if each.requires_grad}
    return [[name for name, _ in net.named_parameters() if name in group] for group in groups]
