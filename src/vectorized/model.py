"""k networks trained as one: a step of the stack is a step of each network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.callbacks.epoch_seed import seed_of_epoch
from src.core.devices import sum_type
from src.data.base import Samples
from src.models.base import SupervisedModule
from src.models.losses import LOSSES, gradient
from src.vectorized.backward import ByAutograd, Gradients, WrittenOut, plain_layers
from src.vectorized.batches import Feed
from src.vectorized.layers import WideDropout, widen
from src.vectorized.optimizers import Numbers
from src.vectorized.random_numbers import Draws
from src.vectorized.schedules import Schedules

State = dict[str, Tensor]  # name → values (k, …)
Rates = list[tuple[int, list[float]]]  # (step, learning rate of each parameter group)
Looks = list[tuple[int, float]]  # (last step of an interval, mean loss over the interval)


class Measured(NamedTuple):
    """The metrics of each job over a set of samples.

    Attributes:
        loss: mean loss, (k,).
        acc: fraction of correct predictions, (k,); ``None`` for regression.
        confusion: true class × predicted class, (k, K, K); ``None`` for regression and in training.
    """

    loss: Tensor
    acc: Tensor | None
    confusion: Tensor | None = None


class Epoch(NamedTuple):
    """The results of an epoch of training.

    Attributes:
        measured: the metrics over the epoch's batches.
        looks: each job's logged losses.
        rates: each job's logged learning rates, of all parameter groups.
        bad: for each job with a non-finite loss, the first such step (from 1) and its loss.
    """

    measured: Measured
    looks: list[Looks]
    rates: list[Rates]
    bad: dict[int, tuple[int, float]]


class Stack:
    """k models of the same shape, trained together.

    Args:
        models: the models with their initial weights, which are copied.
        seeds: each job's seed for dropout and augmentation.
        feed: the jobs' batches.
        schedules: the schedules of the jobs' optimisers.
        every: number of steps between two logged losses.
        eval_batch: number of samples in a batch of an evaluation.
    """

    def __init__(
        self,
        models: Sequence[SupervisedModule],
        seeds: Sequence[int],
        feed: Feed,
        schedules: Schedules,
        every: int,
        eval_batch: int,
    ) -> None:
        self.models, self.first, self.k = models, models[0], len(models)
        self.seeds, self.feed, self.schedules = seeds, feed, schedules
        self.every, self.eval_batch = every, eval_batch
        self.net = widen([model.net for model in models]).to(feed.device, feed.dtype)
        self.names = grouped_names(self.first)
        groups = [[self.net.get_parameter(name) for name in names] for names in self.names]
        self.weights = [weight for weight in self.net.parameters() if weight.ndim > 2]  # biases are (k, out)
        self.thetas = [tied(group) for group in groups]
        self.updates = self.schedules.updates(self.thetas)
        # On a CPU every job draws from a generator, the same numbers as alone; a GPU draws for all jobs at once.
        self.generators = [torch.Generator(feed.device) for _ in models]
        self.draws = None if feed.device.type == "cpu" else Draws(feed.device)
        for layer in self.net.modules():
            if isinstance(layer, WideDropout):
                layer.generators, layer.draws = self.generators, self.draws
        self.smoothing = [model.label_smoothing for model in models]
        self.penalties = [self.column([getattr(model, name) for model in models]) for name in ("l1", "l2")]
        self.penalised = any(bool(penalty.any()) for penalty in self.penalties)
        self.gradients = self.way_back(groups)
        self.epoch = self.steps = 0

    def column(self, values: Sequence[float]) -> Tensor:
        """Return one number per job as a tensor (k,)."""
        return torch.tensor(values, dtype=self.feed.dtype, device=self.feed.device)

    def way_back(self, groups: Sequence[Sequence[nn.Parameter]]) -> Gradients:
        """Return the method to compute gradients: explicit formulas if the network is simple enough, else autograd."""
        layers = None if self.penalised else plain_layers(self.net, groups)
        if layers is None:
            return ByAutograd(self.net, groups, self.objective)
        return WrittenOut(layers[0], layers[1], self.derivative, self.thetas[0])

    # Training

    def train_epoch(self) -> Epoch:
        """Train for one epoch."""
        self.net.train()
        seeds = [seed_of_epoch(seed, self.epoch) for seed in self.seeds]
        for seed, generator in zip(seeds, self.generators, strict=True):
            generator.manual_seed(seed)
        if self.draws is not None:
            self.draws.restart(seeds)
        numbers, count = self.schedules.epoch(len(self.feed)), len(self.feed)
        # What the optimisers need in each step is computed once per epoch: a step of small networks is mostly overhead.
        plans = [update.steps(group, self.steps, count) for update, group in zip(self.updates, numbers, strict=True)]
        metrics = Watched(self, self.every)
        batches = self.feed.epoch(self.epoch, self.generators, self.draws)
        for (inputs, targets), *steps in zip(batches, *plans, strict=True):
            outputs, gradients = self.gradients(inputs, targets)
            with torch.no_grad():
                for update, gradient, step in zip(self.updates, gradients, steps, strict=True):
                    update(gradient, step)
            metrics.add(outputs, targets)
        self.steps += count
        self.epoch += 1
        return metrics.epoch(self.rates(numbers, count))

    def rates(self, numbers: Sequence[Numbers], count: int) -> list[Rates]:
        """Return the learning rates of the last epoch, at the steps where Lightning's LearningRateMonitor logs them.

        That is the epoch's first step; or every ``every`` steps if the rates change in every step.
        """
        before = self.steps - count
        at = [step for step in range(count) if (before + step + 1) % self.every == 0] if self.schedules.by_step else [0]
        chosen = torch.stack([group["lr"][at] for group in numbers], dim=2)  # (T, k, groups)
        steps = [before + step for step in at]
        return [list(zip(steps, rates, strict=True)) for rates in chosen.transpose(0, 1).tolist()]

    def each_loss(self, outputs: Tensor, targets: Tensor, smoothing: Sequence[float] | None = None) -> Tensor:
        """Return the loss of each sample: outputs (B, k, out), targets (B, k) → (B, k).

        Args:
            outputs: (B, k, out).
            targets: (B, k).
            smoothing: each job's label smoothing; ``None``: that of its training.
        """

        def loss(amount: float) -> Tensor:
            rows = LOSSES[self.first.loss_name](outputs.flatten(0, 1), targets.reshape(-1), amount, "none")
            return rows.view(targets.shape)

        return self.smoothed(loss, self.smoothing if smoothing is None else smoothing)

    def smoothed(self, of: Callable[[float], Tensor], smoothing: Sequence[float]) -> Tensor:
        """Return a function of the label smoothing, evaluated with each job's own amount.

        The function is linear in the amount: if the amounts differ, interpolate between its values at 0 and 1.
        """
        if len(set(smoothing)) == 1:
            return of(smoothing[0])
        hard, soft = of(0.0), of(1.0)
        return hard + self.column(smoothing).view(1, self.k, *[1] * (hard.ndim - 2)) * (soft - hard)

    def scale(self, samples: int) -> float:
        """Return the weight of a sample's loss in the objective."""
        return 1.0 if self.first.reduction == "sum" else 1 / samples

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the objective that a step minimizes for each job: outputs (B, k, out), targets (B, k) → (k,)."""
        losses = self.each_loss(outputs, targets).sum(dim=0) * self.scale(len(targets))
        return losses + self.penalty() if self.penalised else losses

    def derivative(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of the objective without penalties with respect to the outputs: (B, k, out)."""

        def of(amount: float) -> Tensor:
            rows = gradient(self.first.loss_name, outputs.flatten(0, 1), targets.reshape(-1), amount)
            return rows.view(outputs.shape)

        found, scale = self.smoothed(of, self.smoothing), self.scale(len(targets))
        return found if scale == 1 else found * scale

    def penalty(self) -> Tensor:
        """Return the L1 and L2 penalties on each job's weights, (k,)."""
        flat = torch.cat([weight.flatten(1) for weight in self.weights], dim=1)
        l1, l2 = self.penalties
        return l1 * flat.abs().sum(dim=1) + l2 * flat.square().sum(dim=1)

    # Evaluation

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> Measured:
        """Return loss, accuracy and confusion matrix of each job on stored samples."""
        self.net.eval()
        classes, no_smoothing = self.first.num_classes, [0.0] * self.k
        sums = torch.zeros(2, self.k, dtype=sum_type(self.feed.device.type), device=self.feed.device)
        cells = torch.zeros(self.k * classes**2, dtype=torch.long, device=self.feed.device)
        # Flat index of a cell in the matrices (k, K, K): first cell of the job + true class · K + predicted class.
        first = torch.arange(self.k, device=self.feed.device) * classes**2
        for inputs, targets in zip(*(part.split(self.eval_batch) for part in samples), strict=True):
            outputs = self.net(self.feed.seen(inputs.to(self.feed.device))).view(len(inputs), self.k, -1)
            truth = targets.to(self.feed.device).unsqueeze(1).expand(-1, self.k)  # (B, k)
            sums[0] += self.each_loss(outputs, truth, no_smoothing).sum(dim=0, dtype=sums.dtype)
            if classes:
                predicted = self.first.predict(outputs.flatten(0, 1)).view(truth.shape)
                sums[1] += (predicted == truth).sum(dim=0)
                cells += torch.bincount((first + truth * classes + predicted).flatten(), minlength=len(cells))
        loss, correct = sums / samples.size
        return Measured(loss, correct, cells.view(self.k, classes, classes)) if classes else Measured(loss, None)

    # State

    @property
    def changing(self) -> State:
        """The present state of everything that training changes: name → values (k, …), not copied."""
        own = {f"theta.{group}": theta for group, theta in enumerate(self.thetas)}
        for group, update in enumerate(self.updates):
            own |= {f"update.{group}.{name}": values for name, values in update.state.items()}
        return own | {f"net.{name}": values for name, values in self.net.named_buffers()}

    def load(self, state: State) -> None:
        """Load a state of the same jobs; entries that it lacks stay unchanged."""
        own = self.changing
        with torch.no_grad():
            for name, values in state.items():
                own[name].copy_(values)

    def go_on_from(self, state: State, epoch: int) -> None:
        """Load the state after ``epoch`` epochs, and advance the schedules to it."""
        self.load(state)
        for _ in range(epoch - self.epoch):
            self.schedules.epoch(len(self.feed))
        self.epoch, self.steps = epoch, epoch * len(self.feed)

    def only(self, jobs: Sequence[int]) -> "Stack":
        """Return a stack of some of the jobs in their present state."""
        models, seeds = [self.models[job] for job in jobs], [self.seeds[job] for job in jobs]
        fewer = Stack(models, seeds, self.feed.only(jobs), self.schedules.only(jobs), self.every, self.eval_batch)
        fewer.load(rows_of(self.changing, jobs))
        fewer.epoch, fewer.steps = self.epoch, self.steps
        return fewer


class Watched:
    """Accumulates the metrics of an epoch; evaluates losses for several steps at once, to save operations.

    Args:
        stack: the stack that is trained.
        every: number of steps between two evaluations.
    """

    def __init__(self, stack: Stack, every: int) -> None:
        self.stack, self.done, self.every = stack, stack.steps, every
        self.unread: list[tuple[Tensor, Tensor]] = []
        self.sums: Tensor | None = None  # (2, k): loss·n, correct
        self.samples = 0
        self.looks: list[tuple[int, Tensor]] = []
        self.bad: dict[int, tuple[int, float]] = {}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add the outputs (B, k, out) and targets (B, k) of a step."""
        self.unread.append((outputs, targets))
        if len(self.unread) == self.every:
            self.look()

    @torch.no_grad()
    def look(self) -> None:
        outputs, targets = (torch.cat(parts) for parts in zip(*self.unread, strict=True))  # (T·B, k, …)
        counts = [len(part) for _, part in self.unread]
        self.unread.clear()
        rows = self.stack.each_loss(outputs, targets)
        losses = torch.stack([part.mean(dim=0) for part in rows.split(counts)])  # (T, k)
        correct = torch.zeros_like(rows[0])
        if self.stack.first.task != "regression":
            predicted = self.stack.first.predict(outputs.flatten(0, 1)).view(targets.shape)
            correct = (predicted == targets).sum(dim=0).to(rows.dtype)
        sums = torch.stack([rows.sum(dim=0), correct]).to(sum_type(rows.device.type))
        self.sums = sums if self.sums is None else self.sums + sums
        self.samples += len(targets)
        if not losses.isfinite().all():
            self.note_bad(losses)
        self.done += len(counts)
        self.looks.append((self.done - 1, losses.mean(dim=0)))

    def note_bad(self, losses: Tensor) -> None:
        """Record each job's first non-finite loss among the losses (T, k)."""
        for job in (~losses.isfinite()).any(dim=0).nonzero().flatten().tolist():
            index = int((~losses[:, job].isfinite()).nonzero()[0])
            self.bad.setdefault(job, (self.done + index + 1, float(losses[index, job])))

    def epoch(self, rates: list[Rates]) -> Epoch:
        """Return the results of the whole epoch, with the given learning rates of each job."""
        if self.unread:
            self.look()
        assert self.sums is not None
        loss, correct = self.sums / self.samples
        acc = None if self.stack.first.task == "regression" else correct
        means = torch.stack([mean for _, mean in self.looks], dim=1).tolist()  # (k, looks); one copy from the device
        looks = [[(step, mean) for (step, _), mean in zip(self.looks, row, strict=True)] for row in means]
        return Epoch(Measured(loss, acc), looks, rates, self.bad)


def grouped_names(model: SupervisedModule) -> list[list[str]]:
    """Return the names of the network's trainable parameters, by parameter group."""
    names = {parameter: name for name, parameter in model.net.named_parameters()}
    groups = model.parameter_groups(lr=0.0)
    return [[names[each] for each in group["params"] if each.requires_grad] for group in groups]


def tied(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return one tensor (k, P) that holds all parameters (k, …), and make these views of it."""
    theta = torch.cat([each.detach().flatten(1) for each in parameters], dim=1)
    pieces = theta.split([each[0].numel() for each in parameters], dim=1)
    for each, piece in zip(parameters, pieces, strict=True):
        each.data = piece.view(each.shape)
    return theta


def rows_of(state: State, jobs: Sequence[int]) -> State:
    """Return a copy of some jobs' rows of a state."""
    return {name: values.detach()[list(jobs)] for name, values in state.items()}


def put(into: State, jobs: Sequence[int], state: State, rows: Sequence[int]) -> None:
    """Copy rows of a state to the rows ``jobs`` of another; entries that the other lacks are ignored."""
    for name, values in into.items():
        values[list(jobs)] = state[name].detach()[list(rows)]
