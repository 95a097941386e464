"""The numbers of many optimisers, step by step, as their learning rates' schedules have them."""

import copy
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from src.models.base import SupervisedModule
from src.vectorized.optimizers import SGD, Adam, Numbers, Update

NUMBERS = ("lr", "momentum", "weight_decay", "beta1", "beta2", "eps")  # those that jobs may have of their own
KINDS: dict[type[torch.optim.Optimizer], type[SGD] | type[Adam]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: Adam,
}


class Planned(NamedTuple):
    """Stands for the Trainer where a model makes its optimiser: so many batches in each of so many epochs."""

    num_training_batches: int
    max_epochs: int
    max_steps: int = -1
    accumulate_grad_batches: int = 1
    check_val_every_n_epoch: int = 1
    train_dataloader: Any = ()
    callbacks: tuple[Any, ...] = ()


class Schedule:
    """A torch optimiser that never steps, whose numbers its scheduler changes.

    Args:
        model: what makes it.
        batches, epochs: of the whole training.
    """

    def __init__(self, model: SupervisedModule, batches: int, epochs: int) -> None:
        model.trainer = Planned(batches, epochs)  # type: ignore[assignment]
        made = model.configure_optimizers()
        chosen: dict[str, Any] = made["lr_scheduler"] if isinstance(made, dict) else {}
        self.optimizer: torch.optim.Optimizer = made["optimizer"] if isinstance(made, dict) else made
        self.scheduler: Any = chosen.get("scheduler")
        self.interval = chosen.get("interval", "epoch")
        self.optimizer._opt_called = True  # schedulers complain if it has not stepped

    def numbers(self) -> list[list[float]]:
        """Of each parameter group those of `NUMBERS`; 0 for what the optimiser does not know."""
        return [[float(known.get(name, 0.0)) for name in NUMBERS] for known in map(spread, self.optimizer.param_groups)]

    def state(self) -> dict[str, Any]:
        """The optimiser's parameter groups and what the scheduler keeps, as a checkpoint has them."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return copy.deepcopy({"param_groups": self.optimizer.state_dict()["param_groups"], "scheduler": scheduler})

    def epoch(self, count: int) -> torch.Tensor:
        """The numbers in each of an epoch's steps, (count or 1, groups, numbers) float64; goes on to the next epoch."""
        each = [self.numbers()]
        if self.scheduler is not None and self.interval == "step":
            for _ in range(count):
                self.scheduler.step()
                each.append(self.numbers())
            each.pop()
        elif self.scheduler is not None:
            self.scheduler.step()
        return torch.tensor(each, dtype=torch.float64)


def spread(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group with its two betas by names of their own."""
    return group | dict(zip(("beta1", "beta2"), group["betas"], strict=True)) if "betas" in group else group


class Schedules:
    """The schedules of k jobs; jobs with equal settings share one.

    Args:
        models: the jobs' models, whose optimisers are of one class.
        batches, epochs: of the whole training.
    """

    def __init__(self, models: Sequence[SupervisedModule], batches: int, epochs: int) -> None:
        told = [json.dumps([model.optimizer_settings, model.scheduler_settings]) for model in models]
        distinct = list(dict.fromkeys(told))
        self.all = [Schedule(models[told.index(each)], batches, epochs) for each in distinct]
        self.which = torch.tensor([distinct.index(each) for each in told])
        self.first = torch.tensor([each.numbers() for each in self.all], dtype=torch.float64)

    @property
    def by_step(self) -> bool:
        """Whether the learning rates change step by step."""
        return self.all[0].scheduler is not None and self.all[0].interval == "step"

    def only(self, jobs: Sequence[int]) -> "Schedules":
        """Those of some of the jobs; they go on from where these are."""
        fewer = copy.copy(self)
        fewer.which = self.which[list(jobs)]
        return fewer

    def of(self, job: int) -> Schedule:
        return self.all[int(self.which[job])]

    def epoch(self, count: int) -> list[Numbers]:
        """Of each parameter group the numbers in an epoch of ``count`` steps; goes on to the next."""
        return self.parted(torch.stack([each.epoch(count) for each in self.all]))

    def parted(self, numbers: torch.Tensor) -> list[Numbers]:
        """(schedules, T, groups, numbers) → for each group by name (T, k)."""
        groups = numbers[self.which].permute(2, 3, 1, 0)  # (groups, numbers, T, k)
        return [dict(zip(NUMBERS, group.unbind(), strict=True)) for group in groups.unbind()]

    def updates(self, thetas: Sequence[torch.Tensor]) -> list[Update]:
        """What changes the parameters (k, P) of each group; its state has the same parts in every smaller stack."""
        optimizer = self.all[0].optimizer
        kind, settings = KINDS[type(optimizer)], optimizer.defaults
        used = [dict(zip(NUMBERS, group.any(dim=0).tolist(), strict=True)) for group in self.first.unbind(dim=1)]
        return [kind(theta, each, settings) for theta, each in zip(thetas, used, strict=True)]
