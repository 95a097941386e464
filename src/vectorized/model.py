"""k networks trained as one: a step of the stack is a step of each of them."""

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

State = dict[str, Tensor]  # by name, each (k, …)
Rates = list[tuple[int, list[float]]]  # learning rates with the number of the step
Looks = list[tuple[int, float]]  # the mean loss of some steps, with the number of the last of them


class Measured(NamedTuple):
    """What came out of a pass over samples, of each job.

    Attributes:
        loss: mean over the samples, (k,).
        acc: share of them that are right, (k,); ``None`` for regression.
        confusion: true class × predicted class, (k, K, K); ``None`` for regression and in training.
    """

    loss: Tensor
    acc: Tensor | None
    confusion: Tensor | None = None


class Epoch(NamedTuple):
    """An epoch of training.

    Attributes:
        measured: over its batches.
        looks: at each job's loss.
        rates: each job's learning rates, those of all parameter groups, at some steps.
        bad: of each job whose loss was not finite, the first such step (from 1) and the loss.
    """

    measured: Measured
    looks: list[Looks]
    rates: list[Rates]
    bad: dict[int, tuple[int, float]]


class Stack:
    """k models of the same shape, trained together.

    Args:
        models: as they begin; their weights are copied.
        seeds: of each one's dropout and augmentation.
        feed: their batches.
        schedules: of their optimisers.
        every: steps between two looks at the losses.
        eval_batch: samples of an evaluation's batch.
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
        """Numbers of the jobs, (k,)."""
        return torch.tensor(values, dtype=self.feed.dtype, device=self.feed.device)

    def way_back(self, groups: Sequence[Sequence[nn.Parameter]]) -> Gradients:
        """How gradients are found: written out where the network is simple enough."""
        layers = None if self.penalised else plain_layers(self.net, groups)
        if layers is None:
            return ByAutograd(self.net, groups, self.objective)
        return WrittenOut(layers[0], layers[1], self.derivative, self.thetas[0])

    # Training

    def train_epoch(self) -> Epoch:
        """Train on all batches once."""
        self.net.train()
        seeds = [seed_of_epoch(seed, self.epoch) for seed in self.seeds]
        for seed, generator in zip(seeds, self.generators, strict=True):
            generator.manual_seed(seed)
        if self.draws is not None:
            self.draws.restart(seeds)
        numbers, count = self.schedules.epoch(len(self.feed)), len(self.feed)
        plans = [update.steps(mine, self.steps, count) for update, mine in zip(self.updates, numbers, strict=True)]
        watched = Watched(self, self.every)
        batches = self.feed.epoch(self.epoch, self.generators, self.draws)
        for (inputs, targets), *now in zip(batches, *plans, strict=True):
            outputs, gradients = self.gradients(inputs, targets)
            with torch.no_grad():
                for update, part, settings in zip(self.updates, gradients, now, strict=True):
                    update(part, settings)
            watched.add(outputs, targets)
        self.steps += count
        self.epoch += 1
        return watched.epoch(self.rates(numbers, count))

    def rates(self, numbers: Sequence[Numbers], count: int) -> list[Rates]:
        """The learning rates of an epoch that has just been trained, where Lightning's monitor logs them.

        That is at its beginning, or where they change step by step, now and then.
        """
        before = self.steps - count
        at = [step for step in range(count) if (before + step + 1) % self.every == 0] if self.schedules.by_step else [0]
        chosen = torch.stack([group["lr"][at] for group in numbers], dim=2)  # (T, k, groups)
        steps = [before + step for step in at]
        return [list(zip(steps, own, strict=True)) for own in chosen.transpose(0, 1).tolist()]

    def each_loss(self, outputs: Tensor, targets: Tensor, smoothing: Sequence[float] | None = None) -> Tensor:
        """The losses of samples: outputs (B, k, out), targets (B, k) → (B, k); of training with its smoothing."""

        def loss(amount: float) -> Tensor:
            rows = LOSSES[self.first.loss_name](outputs.flatten(0, 1), targets.reshape(-1), amount, "none")
            return rows.view(targets.shape)

        return self.smoothed(loss, self.smoothing if smoothing is None else smoothing)

    def smoothed(self, of: Callable[[float], Tensor], smoothing: Sequence[float]) -> Tensor:
        """What depends on the label smoothing, with each job's own: it is linear in it where they differ."""
        if len(set(smoothing)) == 1:
            return of(smoothing[0])
        hard, soft = of(0.0), of(1.0)
        return hard + self.column(smoothing).view(1, self.k, *[1] * (hard.ndim - 2)) * (soft - hard)

    def scale(self, samples: int) -> float:
        """What a sample's loss counts in what a step descends on."""
        return 1.0 if self.first.reduction == "sum" else 1 / samples

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What a step descends on, of each job: outputs (B, k, out), targets (B, k) → (k,)."""
        losses = self.each_loss(outputs, targets).sum(dim=0) * self.scale(len(targets))
        return losses + self.penalty() if self.penalised else losses

    def derivative(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the objective without penalties, in the outputs: (B, k, out)."""

        def of(amount: float) -> Tensor:
            rows = gradient(self.first.loss_name, outputs.flatten(0, 1), targets.reshape(-1), amount)
            return rows.view(outputs.shape)

        found, scale = self.smoothed(of, self.smoothing), self.scale(len(targets))
        return found if scale == 1 else found * scale

    def penalty(self) -> Tensor:
        """What is added to each job's loss for the size of its weights, (k,)."""
        flat = torch.cat([weight.flatten(1) for weight in self.weights], dim=1)
        l1, l2 = self.penalties
        return l1 * flat.abs().sum(dim=1) + l2 * flat.square().sum(dim=1)

    # Evaluation

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> Measured:
        """Loss and accuracy of each job on samples as they are kept."""
        self.net.eval()
        classes, none = self.first.num_classes, [0.0] * self.k
        sums = torch.zeros(2, self.k, dtype=sum_type(self.feed.device.type), device=self.feed.device)
        cells = torch.zeros(self.k * classes**2, dtype=torch.long, device=self.feed.device)
        first = torch.arange(self.k, device=self.feed.device) * classes**2
        for inputs, targets in zip(*(part.split(self.eval_batch) for part in samples), strict=True):
            outputs = self.net(self.feed.seen(inputs.to(self.feed.device))).view(len(inputs), self.k, -1)
            truth = targets.to(self.feed.device).unsqueeze(1).expand(-1, self.k)  # (B, k)
            sums[0] += self.each_loss(outputs, truth, none).sum(dim=0, dtype=sums.dtype)
            if classes:
                predicted = self.first.predict(outputs.flatten(0, 1)).view(truth.shape)
                sums[1] += (predicted == truth).sum(dim=0)
                cells += torch.bincount((first + truth * classes + predicted).flatten(), minlength=len(cells))
        loss, correct = sums / samples.size
        return Measured(loss, correct, cells.view(self.k, classes, classes)) if classes else Measured(loss, None)

    # What a job is at present

    @property
    def changing(self) -> State:
        """All that training changes, as it is at present: each (k, …)."""
        own = {f"theta.{group}": theta for group, theta in enumerate(self.thetas)}
        for group, update in enumerate(self.updates):
            own |= {f"update.{group}.{name}": values for name, values in update.state.items()}
        return own | {f"net.{name}": values for name, values in self.net.named_buffers()}

    def load(self, state: State) -> None:
        """Take over a state of the same jobs; what it lacks stays as it is."""
        own = self.changing
        with torch.no_grad():
            for name, values in state.items():
                own[name].copy_(values)

    def go_on_from(self, state: State, epoch: int) -> None:
        """Take over a state that so many epochs have led to."""
        self.load(state)
        for _ in range(epoch - self.epoch):
            self.schedules.epoch(len(self.feed))
        self.epoch, self.steps = epoch, epoch * len(self.feed)

    def only(self, jobs: Sequence[int]) -> "Stack":
        """A stack of some of the jobs, as they are at present."""
        models, seeds = [self.models[job] for job in jobs], [self.seeds[job] for job in jobs]
        fewer = Stack(models, seeds, self.feed.only(jobs), self.schedules.only(jobs), self.every, self.eval_batch)
        fewer.load(rows_of(self.changing, jobs))
        fewer.epoch, fewer.steps = self.epoch, self.steps
        return fewer


class Watched:
    """Adds up what an epoch's steps tell, with few looks at it.

    Args:
        stack: what is trained.
        every: steps between two looks.
    """

    def __init__(self, stack: Stack, every: int) -> None:
        self.stack, self.done, self.every = stack, stack.steps, every
        self.unread: list[tuple[Tensor, Tensor]] = []
        self.sums: Tensor | None = None  # (2, k): loss·n, correct
        self.samples = 0
        self.looks: list[tuple[int, Tensor]] = []
        self.bad: dict[int, tuple[int, float]] = {}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Outputs (B, k, out) and targets (B, k) of a step."""
        self.unread.append((outputs, targets))
        if len(self.unread) == self.every:
            self.look()

    @torch.no_grad()
    def look(self) -> None:
        outputs, targets = (torch.cat(parts) for parts in zip(*self.unread, strict=True))  # (T·B, k, …)
        counts = [len(part) for _, part in self.unread]
        self.unread.clear()
        each = self.stack.each_loss(outputs, targets)
        losses = torch.stack([part.mean(dim=0) for part in each.split(counts)])  # (T, k)
        correct = torch.zeros_like(each[0])
        if self.stack.first.task != "regression":
            predicted = self.stack.first.predict(outputs.flatten(0, 1)).view(targets.shape)
            correct = (predicted == targets).sum(dim=0).to(each.dtype)
        sums = torch.stack([each.sum(dim=0), correct]).to(sum_type(each.device.type))
        self.sums = sums if self.sums is None else self.sums + sums
        self.samples += len(targets)
        if not losses.isfinite().all():
            self.note_bad(losses)
        self.done += len(counts)
        self.looks.append((self.done - 1, losses.mean(dim=0)))

    def note_bad(self, losses: Tensor) -> None:
        """Losses (T, k) of which some are not finite."""
        for job in (~losses.isfinite()).any(dim=0).nonzero().flatten().tolist():
            at = int((~losses[:, job].isfinite()).nonzero()[0])
            self.bad.setdefault(job, (self.done + at + 1, float(losses[at, job])))

    def epoch(self, rates: list[Rates]) -> Epoch:
        """All of it, at the epoch's end, with the learning rates of each job."""
        if self.unread:
            self.look()
        assert self.sums is not None
        loss, correct = self.sums / self.samples
        acc = None if self.stack.first.task == "regression" else correct
        means = torch.stack([mean for _, mean in self.looks], dim=1).tolist()  # (k, looks), read at once
        looks = [[(step, mean) for (step, _), mean in zip(self.looks, own, strict=True)] for own in means]
        return Epoch(Measured(loss, acc), looks, rates, self.bad)


def grouped_names(model: SupervisedModule) -> list[list[str]]:
    """The names in the network of the parameters that are trained, by parameter group."""
    names = {parameter: name for name, parameter in model.net.named_parameters()}
    groups = model.parameter_groups(lr=0.0)
    return [[names[each] for each in group["params"] if each.requires_grad] for group in groups]


def tied(parameters: Sequence[nn.Parameter]) -> Tensor:
    """One tensor (k, P) of parameters (k, …), which become views of it."""
    theta = torch.cat([each.detach().flatten(1) for each in parameters], dim=1)
    pieces = theta.split([each[0].numel() for each in parameters], dim=1)
    for each, piece in zip(parameters, pieces, strict=True):
        each.data = piece.view(each.shape)
    return theta


def rows_of(state: State, jobs: Sequence[int]) -> State:
    """Some jobs' part of a state, copied."""
    return {name: values.detach()[list(jobs)] for name, values in state.items()}


def put(into: State, jobs: Sequence[int], state: State, rows: Sequence[int]) -> None:
    """Copy rows of a state to where these jobs stand in another; what the other lacks is left out."""
    for name, values in into.items():
        values[list(jobs)] = state[name].detach()[list(rows)]
