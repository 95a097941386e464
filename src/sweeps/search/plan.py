"""The settings of ``hydra/sweeper=optuna`` itself."""

from typing import Any, NamedTuple

from src.core.checks import MAPPING, SEED, one_of, optional, require, whole


class Plan(NamedTuple):
    """A search's own settings.

    Attributes:
        trials: how many in all.
        at_once: how many are suggested together; their results are known only to those after them.
        sampler: "tpe" or "random".
        seed: of the sampler.
    """

    trials: int
    at_once: int
    sampler: str
    seed: int


CHECKS = {
    "trials": whole(1, 1_000_000),
    "at_once": whole(1, 1000),
    "sampler": one_of("tpe", "random"),
    "seed": SEED,
    "params": optional(MAPPING),
}


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that no search can run with.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.sweeper.")
