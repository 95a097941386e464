"""The space of a search: Hydra's grammar for sweeps, converted to Optuna's distributions."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from src.cli.messages import describe_unknown_choice
from src.core.checks import format_value
from src.core.errors import InputError
from src.core.formatting import format_setting_value

SUGGESTION_DIGITS = 4  # significant digits of a suggested number, so that folders, tables and reports stay readable
GRID_DIGITS = 12  # significant digits of a multiple of a step: 0.3 and not 0.30000000000000004
NumberDistribution = IntDistribution | FloatDistribution


class SearchDimension(NamedTuple):
    """A setting that is searched.

    Attributes:
        key: its name on the command line, including ``+``.
        distribution: its values; choices are texts as on the command line.
    """

    key: str
    distribution: NumberDistribution | CategoricalDistribution

    @property
    def name(self) -> str:
        return self.key.lstrip("+")

    def round_value(self, value: Any) -> Any:
        """Return a suggested value to use: a number rounded, but kept within its bounds, or a choice unchanged."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return value
        on_a_grid = distribution.step is not None and distribution.step != 1
        near = float(f"{value:.{GRID_DIGITS if on_a_grid else SUGGESTION_DIGITS}g}")
        return type(distribution.low)(min(max(near, distribution.low), distribution.high))

    @property
    def choices(self) -> list[Any]:
        """The choices; empty for numbers."""
        return list(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else []

    @property
    def lowest(self) -> Any:
        """The lowest number, or the first choice."""
        distribution = self.distribution
        return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low

    @property
    def highest(self) -> Any:
        """The highest number, or the last choice."""
        distribution = self.distribution
        return distribution.choices[-1] if isinstance(distribution, CategoricalDistribution) else distribution.high

    def has_value(self, value: Any) -> bool:
        """Return True if a value is one of those that are searched."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return value in distribution.choices
        return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high

    def __str__(self) -> str:
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return ", ".join(map(str, distribution.choices))
        whole = isinstance(distribution, IntDistribution)
        step = (
            f"step {format_setting_value(distribution.step)}"
            if distribution.step not in (None, 1)
            else "whole"
            if whole
            else ""
        )
        details = ", ".join(word for word in (step, "log" if distribution.log else "") if word)
        low, high = format_setting_value(distribution.low), format_setting_value(distribution.high)
        return f"{low} to {high}{f' ({details})' if details else ''}"


class SearchSpace(NamedTuple):
    """The overrides of a search in the order of the command line: fixed ones, and settings to choose."""

    parts: list[str | SearchDimension]

    @property
    def dimensions(self) -> list[SearchDimension]:
        """The searched settings, sorted by name, so that their order on the command line does not matter."""
        found = [part for part in self.parts if isinstance(part, SearchDimension)]
        return sorted(found, key=lambda setting: setting.name)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {setting.name: setting.distribution for setting in self.dimensions}

    def make_overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """Return a job's overrides for the chosen values.

        Raises:
            InputError: if a value is not in the space.
        """
        # The values may come from a journal that someone has edited: it must not inject other overrides into a job.
        for setting in self.dimensions:
            if not setting.has_value(chosen.get(setting.name)):
                raise InputError(
                    f"{setting.name}={format_value(chosen.get(setting.name))} is not one of its values: {setting}"
                )
        return [
            part if isinstance(part, str) else f"{part.key}={format_setting_value(chosen[part.name])}"
            for part in self.parts
        ]


def read_space(overrides: Iterable[str], loader: Any) -> SearchSpace:
    """Read the space of a search from overrides; the last of several overrides of one setting counts.

    Args:
        overrides: those of a preset first, then those of the command line.
        loader: Hydra's config loader, which knows the choices of a group.

    Raises:
        InputError: if a setting cannot be searched, or no setting is to be searched.
        HydraException: if an override cannot be parsed.
    """
    functions = create_functions()
    # Hydra's own function converts integers to floats.
    functions.functions["interval"] = lambda start, end: IntervalSweep(start=start, end=end)
    parsed = OverridesParser(functions, loader).parse_overrides(list(overrides))
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    space = SearchSpace(
        [
            _parse_dimension(override) if override.is_sweep_override() else str(override.input_line)
            for override in last.values()
        ]
    )
    if not space.dimensions:
        hint = "give a setting several values: model.dropout=interval(0,0.5) model.batch_norm=true,false"
        raise InputError(f"hydra/sweeper=optuna has nothing to search: {hint}")
    return space


def _parse_dimension(override: Override) -> SearchDimension:
    """Convert an override to a setting with a distribution.

    Raises:
        InputError: if no distribution fits its values.
    """
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()))
    numbers = isinstance(sweep, (IntervalSweep, RangeSweep))
    if tags - ({"log"} if numbers else set()):
        raise _make_search_error(override, "the only tag is log, for an interval or a range of numbers")
    if not numbers:
        choices = dict.fromkeys(
            sorted(_get_choice_texts(override)) if getattr(sweep, "shuffle", False) else _get_choice_texts(override)
        )
        if not choices:
            raise InputError(describe_unknown_choice(override.key_or_group, str(override.input_line).partition("=")[2]))
        return SearchDimension(override.get_key_element(), CategoricalDistribution(list(choices)))
    bounds = _find_bounds(override, sweep)
    return SearchDimension(override.get_key_element(), _make_number_distribution(override, *bounds, log=bool(tags)))


def _get_choice_texts(override: Override) -> list[str]:
    return list(override.sweep_string_iterator())


def _find_bounds(override: Override, sweep: Any) -> tuple[float, float, float | None]:
    """Return the lowest and highest number, and the step of a range.

    Raises:
        InputError: if the range is empty or not finite.
    """
    step = None if isinstance(sweep, IntervalSweep) else sweep.step
    numbers = [sweep.start, sweep.end] if step is None else sorted(sweep.range()) if step else []
    if not numbers:
        raise _make_search_error(override, "it contains no number")
    if not all(map(math.isfinite, numbers)):
        raise _make_search_error(override, "its bounds must be finite numbers")
    if numbers[0] > numbers[-1]:
        raise _make_search_error(override, "its lower bound must come first")
    return numbers[0], numbers[-1], step and abs(step)


def _make_number_distribution(
    override: Override, low: float, high: float, step: float | None, log: bool
) -> NumberDistribution:
    """Return the distribution of the numbers from ``low`` to ``high``: integers if both and the step are integers.

    Raises:
        InputError: if a logarithmic scale does not fit them.
    """
    whole = all(isinstance(number, int) for number in (low, high, step) if number is not None)
    if log and low <= 0:
        raise _make_search_error(override, "log needs numbers above 0")
    if log and step not in (None, 1):
        raise _make_search_error(override, "log does not support steps: use an interval")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    low, high = float(low), float(f"{high:.{GRID_DIGITS}g}") if step else float(high)
    return FloatDistribution(low, high, log=log, step=None if log else step)


def _make_search_error(override: Override, reason: str) -> InputError:
    return InputError(f"{override.input_line} cannot be searched: {reason}")
