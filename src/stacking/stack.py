"""k networks trained as one: a step of the stack is a step of each of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.callbacks.epoch_seed import seed_of_epoch
from src.data.base import Samples
from src.models.base import SupervisedModule
from src.models.losses import LOSSES
from src.stacking.feed import Feed
from src.stacking.schedules import Schedules
from src.stacking.wide import WideDropout, widen

State = dict[str, Tensor]  # by name, each (k, …)


class Measured(NamedTuple):
    """What came out of a pass over samples, of each job.

    Attributes:
        loss: mean over the samples, (k,) float64.
        acc: share of them that are right, (k,) float64; ``None`` for regression.
        confusion: true class × predicted class, (k, K, K); ``None`` for regression and in training.
    """

    loss: Tensor
    acc: Tensor | None
    confusion: Tensor | None = None


class Epoch(NamedTuple):
    """An epoch of training.

    Attributes:
        measured: over its batches.
        looks: the mean loss of the steps between two looks, and the number of the last of them.
        rates: the learning rate that it began with, (k,).
        bad: of each job whose loss was not finite, the first such step (from 1) and the loss.
    """

    measured: Measured
    looks: list[tuple[int, Tensor]]
    rates: Tensor
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
        self.parameters = [self.net.get_parameter(name) for names in self.names for name in names]
        self.weights = [weight for weight in self.net.parameters() if weight.ndim > 2]  # biases are (k, out)
        self.thetas = [tied([self.net.get_parameter(name) for name in names]) for names in self.names]
        self.updates = self.schedules.updates(self.thetas)
        self.generators = [torch.Generator(feed.device) for _ in models]
        for layer in self.net.modules():
            if isinstance(layer, WideDropout):
                layer.generators = self.generators
        self.smoothing = [model.label_smoothing for model in models]
        self.penalties = [self.column([getattr(model, name) for model in models]) for name in ("l1", "l2")]
        self.penalised = any(bool(penalty.any()) for penalty in self.penalties)
        self.epoch = self.steps = 0

    def column(self, values: Sequence[float]) -> Tensor:
        """Numbers of the jobs, (k,)."""
        return torch.tensor(values, dtype=self.feed.dtype, device=self.feed.device)

    # Training

    def train_epoch(self) -> Epoch:
        """Train on all batches once."""
        self.net.train()
        for seed, generator in zip(self.seeds, self.generators, strict=True):
            generator.manual_seed(seed_of_epoch(seed, self.epoch))
        numbers, count = self.schedules.epoch(len(self.feed)), len(self.feed)
        plans = [update.steps(mine, self.steps, count) for update, mine in zip(self.updates, numbers, strict=True)]
        watched = Watched(self.first, self.k, self.steps, self.every)
        for (inputs, targets), *numbers_now in zip(self.feed.epoch(self.epoch, self.generators), *plans, strict=True):
            outputs = self.net(inputs).view(len(inputs), self.k, -1)  # (B, k, out)
            losses = self.losses(outputs, targets)
            self.step(losses, len(inputs), numbers_now)
            watched.add(losses.detach(), outputs.detach(), targets)
        self.steps += count
        self.epoch += 1
        return watched.epoch(numbers[0]["lr"][0])

    def step(self, losses: Tensor, samples: int, numbers: Sequence[object]) -> None:
        """Change all weights by the gradients of the jobs' mean losses (k,)."""
        gradients = torch.autograd.grad(self.objective(losses, samples).sum(), self.parameters)
        with torch.no_grad():
            at = 0
            for names, update, now in zip(self.names, self.updates, numbers, strict=True):
                part = gradients[at : at + len(names)]
                update(torch.cat([each.flatten(1) for each in part], dim=1), now)
                at += len(names)

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: Sequence[float] | None = None) -> Tensor:
        """Mean losses over a batch: outputs (B, k, out), targets (B, k) → (k,)."""
        own = self.smoothing if smoothing is None else smoothing
        if len(set(own)) == 1:
            return self.each_loss(outputs, targets, own[0]).mean(dim=0)
        share = self.column(own)
        hard, soft = (self.each_loss(outputs, targets, amount) for amount in (0.0, 1.0))
        return ((1 - share) * hard + share * soft).mean(dim=0)

    def each_loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """The loss of each sample, (B, k)."""
        loss = LOSSES[self.first.loss_name]
        return loss(outputs.flatten(0, 1), targets.reshape(-1), smoothing, "none").view(targets.shape)

    def objective(self, losses: Tensor, samples: int) -> Tensor:
        """What a step descends on, of each job (k,), from its mean loss over so many samples."""
        if self.first.reduction == "sum":
            losses = losses * samples
        if self.penalised:
            flat = torch.cat([weight.flatten(1) for weight in self.weights], dim=1)
            l1, l2 = self.penalties
            losses = losses + l1 * flat.abs().sum(dim=1) + l2 * flat.square().sum(dim=1)
        return losses

    # Evaluation

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> Measured:
        """Loss and accuracy of each job on samples as they are kept."""
        self.net.eval()
        classes, none = self.first.num_classes, [0.0] * self.k
        sums = torch.zeros(2, self.k, dtype=torch.float64, device=self.feed.device)
        cells = torch.zeros(self.k * classes**2, dtype=torch.long, device=self.feed.device)
        first = torch.arange(self.k, device=self.feed.device) * classes**2
        for inputs, targets in zip(*(part.split(self.eval_batch) for part in samples), strict=True):
            outputs = self.net(self.feed.seen(inputs.to(self.feed.device))).view(len(inputs), self.k, -1)
            truth = targets.to(self.feed.device).unsqueeze(1).expand(-1, self.k)  # (B, k)
            sums[0] += self.losses(outputs, truth, none).double() * len(inputs)
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
        model: whose predictions count.
        k: how many jobs.
        before: steps before this epoch.
        every: steps between two looks.
    """

    def __init__(self, model: SupervisedModule, k: int, before: int, every: int) -> None:
        self.model, self.k, self.done, self.every = model, k, before, every
        self.unread: list[tuple[Tensor, Tensor, Tensor]] = []
        self.sums: Tensor | None = None  # (2, k): loss·n, correct
        self.samples = 0
        self.looks: list[tuple[int, Tensor]] = []
        self.bad: dict[int, tuple[int, float]] = {}

    def add(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        self.unread.append((losses, outputs, targets))
        if len(self.unread) == self.every:
            self.look()

    def look(self) -> None:
        each, outputs, targets = zip(*self.unread, strict=True)
        self.unread.clear()
        losses = torch.stack(each)  # (T, k)
        counts = losses.new_tensor([len(part) for part in targets])
        correct = torch.zeros_like(losses[0])
        if self.model.task != "regression":
            truth = torch.cat(targets)  # (T·B, k)
            correct = (self.model.predict(torch.cat(outputs).flatten(0, 1)).view(truth.shape) == truth).sum(dim=0)
        sums = torch.stack([counts @ losses, correct.to(losses.dtype)]).double()
        self.sums = sums if self.sums is None else self.sums + sums
        self.samples += int(counts.sum())
        if not losses.isfinite().all():
            self.note_bad(losses)
        self.done += len(losses)
        self.looks.append((self.done - 1, losses.mean(dim=0)))

    def note_bad(self, losses: Tensor) -> None:
        """Losses (T, k) of which some are not finite."""
        for job in (~losses.isfinite()).any(dim=0).nonzero().flatten().tolist():
            at = int((~losses[:, job].isfinite()).nonzero()[0])
            self.bad.setdefault(job, (self.done + at + 1, float(losses[at, job])))

    def epoch(self, rates: Tensor) -> Epoch:
        """All of it, at the epoch's end."""
        if self.unread:
            self.look()
        assert self.sums is not None
        loss, correct = self.sums / self.samples
        return Epoch(Measured(loss, None if self.model.task == "regression" else correct), self.looks, rates, self.bad)


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
