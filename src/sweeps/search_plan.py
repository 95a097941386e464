"""The settings of ``hydra/sweeper=optuna`` itself."""

from typing import Any, NamedTuple

from src.errors import InputError

SAMPLERS = ("tpe", "random")


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


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that no search can run with.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """

    def whole(name: str, low: int) -> bool:
        value = settings[name]
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    will_do = {
        "trials": (whole("trials", 1), "a whole number above 0"),
        "at_once": (whole("at_once", 1), "a whole number above 0"),
        "sampler": (settings["sampler"] in SAMPLERS, " or ".join(SAMPLERS)),
        "seed": (whole("seed", 0), "a whole number, 0 or more"),
    }
    for name, (fine, words) in will_do.items():
        if not fine:
            raise InputError(f"hydra.sweeper.{name}={settings[name]} must be {words}")
