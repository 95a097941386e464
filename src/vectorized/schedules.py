"""The hyperparameters of many optimisers in each step, as their learning rate schedules set them."""

import copy
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from src.models.base import SupervisedModule
from src.vectorized.optimizers import Hyperparameters, StackedAdam, StackedOptimizer, StackedSGD

# The optimiser hyperparameters that may differ between the jobs of a stack.
HYPERPARAMETERS = ("lr", "momentum", "weight_decay", "beta1", "beta2", "eps")
STACKED_OPTIMIZERS: dict[type[torch.optim.Optimizer], type[StackedSGD] | type[StackedAdam]] = {
    torch.optim.SGD: StackedSGD,
    torch.optim.Adam: StackedAdam,
    torch.optim.AdamW: StackedAdam,
}


class TrainerStub(NamedTuple):
    """Stand-in for the Trainer when a model creates its optimiser: the planned numbers of batches and epochs."""

    num_training_batches: int
    max_epochs: int
    max_steps: int = -1
    accumulate_grad_batches: int = 1
    check_val_every_n_epoch: int = 1
    train_dataloader: Any = ()
    callbacks: tuple[Any, ...] = ()


class Schedule:
    """A torch optimiser that never steps; its scheduler changes its hyperparameters.

    Args:
        model: the model that creates the optimiser and its scheduler.
        batches: number of batches per epoch.
        epochs: number of epochs of the whole training.
    """

    def __init__(self, model: SupervisedModule, batches: int, epochs: int) -> None:
        model.trainer = TrainerStub(batches, epochs)  # type: ignore[assignment]
        result = model.configure_optimizers()
        config: dict[str, Any] = result["lr_scheduler"] if isinstance(result, dict) else {}
        self.optimizer: torch.optim.Optimizer = result["optimizer"] if isinstance(result, dict) else result
        self.scheduler: Any = config.get("scheduler")
        self.interval = config.get("interval", "epoch")
        self.optimizer._opt_called = True  # schedulers warn if the optimiser has never stepped

    def get_hyperparameters(self) -> list[list[float]]:
        """Return the values of `HYPERPARAMETERS` for each parameter group; 0 for those that it does not have."""
        return [
            [float(group.get(name, 0.0)) for name in HYPERPARAMETERS]
            for group in map(_split_betas, self.optimizer.param_groups)
        ]

    def get_state(self) -> dict[str, Any]:
        """Return the optimiser's parameter groups and the scheduler's state, in the format of a checkpoint."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return copy.deepcopy({"param_groups": self.optimizer.state_dict()["param_groups"], "scheduler": scheduler})

    def step_epoch(self, count: int) -> torch.Tensor:
        """Return the hyperparameters in each step of an epoch, and advance the schedule to the next epoch.

        Args:
            count: number of steps in the epoch.

        Returns:
            (count, groups, numbers), or (1, groups, numbers) if they do not change within the epoch; float64.
        """
        rows = [self.get_hyperparameters()]
        if self.scheduler is not None and self.interval == "step":
            for _ in range(count):
                self.scheduler.step()
                rows.append(self.get_hyperparameters())
            rows.pop()  # belongs to the next epoch
        elif self.scheduler is not None:
            self.scheduler.step()
        return torch.tensor(rows, dtype=torch.float64)


def _split_betas(group: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter group with its two betas under separate names, ``beta1`` and ``beta2``."""
    return group | dict(zip(("beta1", "beta2"), group["betas"], strict=True)) if "betas" in group else group


class Schedules:
    """The schedules of k jobs; jobs with equal settings and as many parameters share one.

    Args:
        models: the jobs' models, whose optimisers are of one class.
        batches: number of batches per epoch.
        epochs: number of epochs of the whole training.
    """

    def __init__(self, models: Sequence[SupervisedModule], batches: int, epochs: int) -> None:
        # An optimiser's state tells how many parameters it has, which networks of other layers have more or fewer of.
        keys = [
            json.dumps([model.optimizer_settings, model.scheduler_settings, sum(1 for _ in model.parameters())])
            for model in models
        ]
        distinct = list(dict.fromkeys(keys))
        self.distinct = [Schedule(models[keys.index(each)], batches, epochs) for each in distinct]
        self.schedule_indices = torch.tensor([distinct.index(each) for each in keys])
        self.initial_hyperparameters = torch.tensor(
            [each.get_hyperparameters() for each in self.distinct], dtype=torch.float64
        )

    @property
    def is_stepwise(self) -> bool:
        """True if the learning rates change in every step, not only between epochs."""
        return self.distinct[0].scheduler is not None and self.distinct[0].interval == "step"

    def select_jobs(self, indices: Sequence[int]) -> "Schedules":
        """Return the schedules of some of the jobs, in their present state."""
        fewer = copy.copy(self)
        fewer.schedule_indices = self.schedule_indices[list(indices)]
        return fewer

    def get_schedule(self, index: int) -> Schedule:
        return self.distinct[int(self.schedule_indices[index])]

    def step_epoch(self, count: int) -> list[Hyperparameters]:
        """Return each parameter group's hyperparameters in an epoch of ``count`` steps; advance to the next epoch."""
        return self.split_groups(torch.stack([each.step_epoch(count) for each in self.distinct]))

    def split_groups(self, hyperparameters: torch.Tensor) -> list[Hyperparameters]:
        """Convert (schedules, T, groups, numbers) to one dictionary per group: name → (T, k)."""
        groups = hyperparameters[self.schedule_indices].permute(2, 3, 1, 0)  # (groups, numbers, T, k)
        return [dict(zip(HYPERPARAMETERS, group.unbind(), strict=True)) for group in groups.unbind()]

    def build_optimizer(self, group: int, theta: torch.Tensor) -> StackedOptimizer:
        """Return the optimiser of parameters (k, P) of a group.

        Its state has the same keys in every smaller stack.
        """
        optimizer = self.distinct[0].optimizer
        kind, settings = STACKED_OPTIMIZERS[type(optimizer)], optimizer.defaults
        used = self.initial_hyperparameters[:, group].any(dim=0).tolist()
        return kind(theta, dict(zip(HYPERPARAMETERS, used, strict=True)), settings)
