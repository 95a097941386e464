"""What a search chooses from: Hydra's grammar for sweeps, read as Optuna's distributions."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from src.cli.messages import unknown_choice
from src.core.checks import show
from src.core.errors import InputError
from src.sweeps.store.runs import said

DIGITS = 4  # of a number that is suggested: folders, tables and reports stay readable
GRID_DIGITS = 12  # of a step's multiple: 0.3 and not 0.30000000000000004
Numbers = IntDistribution | FloatDistribution


class Setting(NamedTuple):
    """A setting that is searched.

    Attributes:
        key: as it is typed, ``+`` included.
        distribution: its values; choices are texts as one types them.
    """

    key: str
    distribution: Numbers | CategoricalDistribution

    @property
    def name(self) -> str:
        return self.key.lstrip("+")

    def rounded(self, value: Any) -> Any:
        """A suggested value as it is used: numbers rounded, but not out of their bounds."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return value
        on_a_grid = found.step is not None and found.step != 1
        near = float(f"{value:.{GRID_DIGITS if on_a_grid else DIGITS}g}")
        return type(found.low)(min(max(near, found.low), found.high))

    @property
    def choices(self) -> list[Any]:
        """Its choices; of numbers none."""
        return list(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else []

    @property
    def lowest(self) -> Any:
        """A value of it: the lowest, or the first choice."""
        found = self.distribution
        return found.choices[0] if isinstance(found, CategoricalDistribution) else found.low

    def takes(self, value: Any) -> bool:
        """Return whether a value is one of those that are searched."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return value in found.choices
        return isinstance(value, (int, float)) and found.low <= value <= found.high

    def __str__(self) -> str:
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return ", ".join(map(str, found.choices))
        whole = isinstance(found, IntDistribution)
        step = f"step {said(found.step)}" if found.step not in (None, 1) else "whole" if whole else ""
        how = ", ".join(word for word in (step, "log" if found.log else "") if word)
        return f"{said(found.low)} to {said(found.high)}{f' ({how})' if how else ''}"


class Space(NamedTuple):
    """What jobs are asked for with, in the order in which it was typed: fixed overrides and settings to choose."""

    parts: list[str | Setting]

    @property
    def settings(self) -> list[Setting]:
        """Sorted by name, so that a search does not depend on the order in which they are typed."""
        found = [part for part in self.parts if isinstance(part, Setting)]
        return sorted(found, key=lambda setting: setting.name)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {setting.name: setting.distribution for setting in self.settings}

    def overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """A job's overrides for the values that were chosen.

        Raises:
            InputError: if one cannot have been: a journal is no place to say what else a job does.
        """
        for setting in self.settings:
            if not setting.takes(chosen.get(setting.name)):
                raise InputError(f"{setting.name}={show(chosen.get(setting.name))} is none of its values: {setting}")
        return [part if isinstance(part, str) else f"{part.key}={said(chosen[part.name])}" for part in self.parts]


def read_space(overrides: Iterable[str], loader: Any) -> Space:
    """The space that overrides tell; of several for one setting the last counts.

    Args:
        overrides: a preset's first, then the command line's.
        loader: Hydra's, which knows the choices of a group.

    Raises:
        InputError: if a setting cannot be searched so, or nothing is to be searched.
        HydraException: if an override cannot be read.
    """
    functions = create_functions()
    functions.functions["interval"] = lambda start, end: IntervalSweep(start=start, end=end)  # Hydra's makes floats
    parsed = OverridesParser(functions, loader).parse_overrides(list(overrides))
    last = {each.get_key_element().lstrip("+"): each for each in parsed}
    space = Space([setting(each) if each.is_sweep_override() else str(each.input_line) for each in last.values()])
    if not space.settings:
        how = "give a setting several values: model.dropout=interval(0,0.5) model.batch_norm=true,false"
        raise InputError(f"hydra/sweeper=optuna has nothing to search: {how}")
    return space


def setting(override: Override) -> Setting:
    """A setting's values as a distribution.

    Raises:
        InputError: if there is none for them.
    """
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()))
    numbers = isinstance(sweep, (IntervalSweep, RangeSweep))
    if tags - ({"log"} if numbers else set()):
        raise refused(override, "the one tag is log, of an interval or a range of numbers")
    if not numbers:
        choices = dict.fromkeys(sorted(texts(override)) if getattr(sweep, "shuffle", False) else texts(override))
        if not choices:
            raise InputError(unknown_choice(override.key_or_group, str(override.input_line).partition("=")[2]))
        return Setting(override.get_key_element(), CategoricalDistribution(list(choices)))
    bounds = ends(override, sweep)
    return Setting(override.get_key_element(), of_numbers(override, *bounds, log=bool(tags)))


def texts(override: Override) -> list[str]:
    return list(override.sweep_string_iterator())


def ends(override: Override, sweep: Any) -> tuple[float, float, float | None]:
    """Lowest and highest number, and the step of a range.

    Raises:
        InputError: if there is no number between them, or not only numbers.
    """
    step = None if isinstance(sweep, IntervalSweep) else sweep.step
    numbers = [sweep.start, sweep.end] if step is None else sorted(sweep.range()) if step else []
    if not numbers:
        raise refused(override, "there is no number in it")
    if not all(map(math.isfinite, numbers)):
        raise refused(override, "its ends must be numbers")
    if numbers[0] > numbers[-1]:
        raise refused(override, "its lower end comes first")
    return numbers[0], numbers[-1], step and abs(step)


def of_numbers(override: Override, low: float, high: float, step: float | None, log: bool) -> Numbers:
    """The numbers from low to high; whole ones where all that is given is whole.

    Raises:
        InputError: if a logarithm does not suit them.
    """
    whole = all(isinstance(number, int) for number in (low, high, step) if number is not None)
    if log and low <= 0:
        raise refused(override, "log needs numbers above 0")
    if log and step not in (None, 1):
        raise refused(override, "log knows no steps: give an interval")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    low, high = float(low), float(f"{high:.{GRID_DIGITS}g}") if step else float(high)
    return FloatDistribution(low, high, log=log, step=None if log else step)


def refused(override: Override, why: str) -> InputError:
    return InputError(f"{override.input_line} cannot be searched: {why}")
