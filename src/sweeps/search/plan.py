"""The settings of ``hydra/sweeper=optuna`` itself."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from src.core.checks import MAPPING, SEED, Check, allow_integer, allow_null_or, allow_one_of, check_settings
from src.core.errors import InputError
from src.sweeps.search import rungs

MIN_EPOCHS, FACTOR = 1, 3  # of the pruner, as in hydra/sweeper=halving
GROUP_SIZE = 4  # trials that are suggested together without a pruner
PRUNER = "hydra.sweeper.pruner"


class SearchPlan(NamedTuple):
    """The settings of a search itself.

    Attributes:
        trials: the total number of trials.
        at_once: the number of trials in a group, which are suggested together without each other's results.
        sampler: "tpe", "gp" or "random".
        seed: the seed of the sampler.
        objectives: the mode of each metric that the trials are judged by; empty: the monitored metric alone.
        pruner: "none"; "halving": the trials of a group are halved against each other; "asha": each trial is compared
            with those before it, and none waits.
        min_epochs: with a pruner: the number of epochs of the first rung.
        factor: with a pruner: one of so many trials goes on after each rung.
    """

    trials: int
    at_once: int
    sampler: str
    seed: int
    objectives: dict[str, str]
    pruner: str
    min_epochs: int
    factor: int

    @property
    def has_rungs(self) -> bool:
        return self.pruner != "none"

    @property
    def pruner_setting(self) -> str:
        """The pruner as it is typed, for error messages."""
        return f"{PRUNER}={self.pruner}"

    @property
    def rung_settings(self) -> dict[str, Any]:
        """The settings that `src.sweeps.search.rungs.plan_rungs` takes."""
        own = {"min_epochs": self.min_epochs, "factor": self.factor}
        return {"rule": rungs.HALVING, "brackets": 1, "keep": None, **own}


def _are_objectives(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 1 and all(mode in ("min", "max") for mode in value.values())


CHECKS = {
    "trials": allow_integer(1, 1_000_000),
    "at_once": allow_null_or(allow_integer(1, 1000)),
    "sampler": allow_one_of("tpe", "gp", "random"),
    "seed": SEED,
    "objectives": allow_null_or(
        Check(_are_objectives, "two or more metrics with min or max, such as {val/acc: max, parameters: min}")
    ),
    "pruner": allow_one_of("none", "halving", "asha"),
    "min_epochs": allow_null_or(rungs.CHECKS["min_epochs"]),
    "factor": allow_null_or(rungs.CHECKS["factor"]),
    "params": allow_null_or(MAPPING),
}


def make_plan(settings: dict[str, Any]) -> SearchPlan:
    """Check the settings of a search, and fill in those that are null.

    Raises:
        InputError: naming the invalid setting, its value and the valid values.
    """
    check_settings(settings, CHECKS, "hydra.sweeper.")
    given = {key: value for key, value in settings.items() if key != "params" and value is not None}
    if given["pruner"] == "none":
        for name in ("min_epochs", "factor"):
            if name in given:
                raise InputError(f"hydra.sweeper.{name}={given[name]} needs {PRUNER}=halving or asha")
    if given["pruner"] == "asha" and "at_once" in given:
        raise InputError(
            f"hydra.sweeper.at_once={given['at_once']}: {PRUNER}=asha suggests one at a time: leave it out"
        )
    factor = given.get("factor", FACTOR)
    usual = {"none": GROUP_SIZE, "halving": min(factor**2, 1000), "asha": 1}[given["pruner"]]
    defaults = {"min_epochs": MIN_EPOCHS, "factor": factor, "at_once": usual}
    plan = SearchPlan(**{**defaults, **given, "objectives": dict(given.get("objectives", {}))})
    _refuse_mixtures(plan)
    return plan


def _refuse_mixtures(plan: SearchPlan) -> None:
    """Refuse settings that do not go together."""
    for name in plan.objectives:
        if str(name).startswith("test/"):
            raise InputError(f"hydra.sweeper.objectives: {name} chooses nothing, or it would no longer be a test")
    asked = plan.pruner_setting
    if plan.has_rungs and plan.objectives:
        raise InputError(f"{asked} compares trials by one metric: leave out hydra.sweeper.objectives")
    if plan.has_rungs and plan.sampler == "gp":
        raise InputError(f"hydra.sweeper.sampler=gp learns nothing from pruned trials: use tpe with {asked}")
    if plan.pruner == "halving" and plan.at_once < plan.factor:
        least = f"at least {plan.factor}, or leave it out for {plan.factor**2}"
        raise InputError(
            f"hydra.sweeper.at_once={plan.at_once}: {asked} lets one of hydra.sweeper.factor={plan.factor} trials go "
            f"on, and compares those of a group; give {least}"
        )
