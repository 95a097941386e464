"""The settings of ``hydra/sweeper=optuna`` itself."""

from typing import Any, NamedTuple

from src.core.checks import MAPPING, SEED, allow_integer, allow_null_or, allow_one_of, check_settings


class SearchPlan(NamedTuple):
    """The settings of a search itself.

    Attributes:
        trials: the total number of trials.
        at_once: the number of trials in a batch, which are suggested together without each other's results.
        sampler: "tpe" or "random".
        seed: the seed of the sampler.
    """

    trials: int
    at_once: int
    sampler: str
    seed: int


CHECKS = {
    "trials": allow_integer(1, 1_000_000),
    "at_once": allow_integer(1, 1000),
    "sampler": allow_one_of("tpe", "random"),
    "seed": SEED,
    "params": allow_null_or(MAPPING),
}


def check_search_settings(settings: dict[str, Any]) -> None:
    """Check the settings of a search.

    Raises:
        InputError: naming the invalid setting, its value and the valid values.
    """
    check_settings(settings, CHECKS, "hydra.sweeper.")
