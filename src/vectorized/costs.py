"""What a step of stacked jobs costs, to decide which networks of other widths are worth padding to one stack."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Estimates of the seconds for a multiplication of the forward pass, with its two of the backward pass; for the update
# of a parameter; and for the operations of a step whatever their size. Those of the CPU are near what stacks of MLPs
# took on one core; those of a GPU have not been measured. A wrong one costs time, never a result.
SECONDS = {"cpu": (2e-10, 2e-9, 2e-4), "gpu": (2e-13, 2e-11, 1e-3)}
MIN_JOBS_PER_STACK = 8  # jobs per stack at least when a stack is split to use idle processes
LARGE = 4  # jobs are large if those of a stack take at least this multiple of a step's fixed time
WORTHWHILE = 0.95  # a stack is split if the time shrinks to this fraction or less


class StepCost(NamedTuple):
    """What a step of a job takes.

    Attributes:
        weights: of each weight its shape, and at how many places of a sample it is used.
        batch_size: samples in a batch.
        device: "cpu" or "gpu".
    """

    weights: Mapping[str, tuple[tuple[int, ...], int]] = {}
    batch_size: int = 1
    device: str = "cpu"

    @property
    def seconds(self) -> float:
        """Seconds of a step of one more job in a stack."""
        product, update, _ = SECONDS[self.device]
        return sum(
            math.prod(shape) * (places * self.batch_size * product + update) for shape, places in self.weights.values()
        )

    @property
    def fixed_seconds(self) -> float:
        """Seconds of a step of a stack, however many jobs are in it."""
        return SECONDS[self.device][2]

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape, _ in self.weights.values())

    @property
    def convolutions(self) -> int:
        """Multiplications of a sample's convolutions."""
        return sum(math.prod(shape) * places for shape, places in self.weights.values() if places > 1)

    def widen(self, other: "StepCost") -> "StepCost":
        """Return the cost of a network as wide as this one and another."""
        weights = dict(self.weights)
        for name, (shape, places) in other.weights.items():
            mine, own_places = weights.get(name, (shape, places))
            weights[name] = (tuple(map(max, mine, shape)), max(places, own_places))
        return self._replace(weights=weights)


class Eligibility(NamedTuple):
    """The decision about jobs of the same kind.

    Attributes:
        reason: why they cannot be trained in a stack; ``None`` if they can.
        max_jobs: largest number of jobs that fit into the memory of one process.
        max_eval_samples: largest number of samples of an evaluation that fit, summed over all jobs.
        cost: what a step of a job costs.
    """

    reason: str | None
    max_jobs: int = 0
    max_eval_samples: int = 0
    cost: StepCost = StepCost()


class Group(NamedTuple):
    """Kinds of jobs that are trained together.

    Attributes:
        members: their positions among all kinds.
        jobs: the number of jobs.
        cost: what a step of each costs, padded.
    """

    members: list[int]
    jobs: int
    cost: StepCost


def join_kinds(costs: Sequence[StepCost], counts: Sequence[int], always: bool = False) -> list[Group]:
    """Return which kinds of jobs to train together: where padding the smaller ones costs less than a stack.

    Args:
        costs: of each kind what a step of a job costs.
        counts: of each kind the number of jobs.
        always: join all of them.
    """
    groups: list[Group] = []
    for index in sorted(range(len(costs)), key=lambda each: -costs[each].seconds):
        joined = [_join(group, index, costs[index], counts[index]) for group in groups]
        extra = [
            new.jobs * new.cost.seconds - group.jobs * group.cost.seconds - counts[index] * costs[index].seconds
            for new, group in zip(joined, groups, strict=True)
        ]
        limit = math.inf if always else costs[index].fixed_seconds
        if extra and min(extra) <= limit:
            best = extra.index(min(extra))
            groups[best] = joined[best]
        else:
            groups.append(Group([index], counts[index], costs[index]))
    return groups


def _join(group: Group, index: int, cost: StepCost, jobs: int) -> Group:
    return Group([*group.members, index], group.jobs + jobs, group.cost.widen(cost))


def choose_counts(costs: Sequence[StepCost], jobs: Sequence[int], required: Sequence[int], processes: int) -> list[int]:
    """Return into how many stacks to split each group, so that all processes are busy until about the same time.

    Args:
        costs: of each group what a step of a job costs.
        jobs: of each group the number of jobs.
        required: of each group the smallest number of stacks.
        processes: the number of stacks at once.
    """
    # Where a further stack costs nearly nothing, all processes get their part of each group: if some jobs end early,
    # or are pruned, they end early everywhere.
    counts = [
        max(least, processes if size / processes * cost.seconds >= LARGE * cost.fixed_seconds else 1)
        for cost, size, least in zip(costs, jobs, required, strict=True)
    ]

    def estimate(counts: Sequence[int]) -> float:
        loads = [0.0] * processes
        seconds = [
            cost.fixed_seconds + size / count * cost.seconds
            for cost, size, count in zip(costs, jobs, counts, strict=True)
            for _ in range(count)
        ]
        for each in sorted(seconds, reverse=True):
            loads[loads.index(min(loads))] += each
        return max(loads)

    while counts:
        splits = [
            [*counts[:index], count + 1, *counts[index + 1 :]]
            for index, count in enumerate(counts)
            if count < jobs[index] // MIN_JOBS_PER_STACK
        ]
        best = min(splits, key=estimate, default=counts)
        if estimate(best) > WORTHWHILE * estimate(counts):
            break
        counts = best
    return counts
