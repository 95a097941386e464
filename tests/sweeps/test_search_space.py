"""What a search chooses from: Hydra's grammar for sweeps as Optuna's distributions."""

import pytest
from hydra.errors import OverrideParseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from src.core.errors import InputError
from src.sweeps.search.space import read_space


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("interval(16, 512)", IntDistribution(16, 512)),
        ("tag(log, interval(16, 512))", IntDistribution(16, 512, log=True)),
        ("interval(0, 0.5)", FloatDistribution(0, 0.5)),
        ("float(interval(1, 5))", FloatDistribution(1, 5)),
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("range(1, 10, 2)", IntDistribution(1, 9, step=2)),
        ("range(10, 1, -3)", IntDistribution(4, 10, step=3)),
        ("tag(log, range(1, 10))", IntDistribution(1, 9, log=True)),
        ("range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("true,false", CategoricalDistribution(["True", "False"])),
        ("64,[64,64],'a b',64", CategoricalDistribution(["64", "[64,64]", "'a b'"])),
        ("choice(relu, sigmoid)", CategoricalDistribution(["relu", "sigmoid"])),
        ("shuffle(c, a, b)", CategoricalDistribution(["a", "b", "c"])),
    ],
)
def test_sweep_syntax_gives_distribution(typed: str, distribution: BaseDistribution) -> None:
    """Each kind of sweep in Hydra's grammar gives its Optuna distribution."""
    assert read_space([f"model.x={typed}"], None).distributions == {"model.x": distribution}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("interval(5, 1)", "its lower bound must come first"),
        ("interval(0, inf)", "its bounds must be finite numbers"),
        ("interval(nan, 1)", "its bounds must be finite numbers"),
        ("tag(log, interval(0, 1))", "log needs numbers above 0"),
        ("tag(log, range(1, 10, 2))", "log does not support steps: use an interval"),
        ("tag(log, choice(1, 2))", "the only tag is log, for an interval or a range of numbers"),
        ("tag(wide, interval(1, 2))", "the only tag is log, for an interval or a range of numbers"),
        ("range(3, 3)", "it contains no number"),
        ("range(0, 3, 0)", "it contains no number"),
    ],
)
def test_unsearchable_values_are_refused(typed: str, why: str) -> None:
    """Values without a distribution are refused with the reason."""
    with pytest.raises(InputError, match=r"cannot be searched") as error:
        read_space([f"x={typed}"], None)
    assert str(error.value) == f"x={typed} cannot be searched: {why}"


def test_invalid_override_is_refused() -> None:
    with pytest.raises(OverrideParseException, match="interval"):
        read_space(["x=interval(a, b)"], None)


def test_job_overrides_keep_typed_order() -> None:
    """A job gets the fixed overrides and the suggested values in the order typed."""
    typed = ["~logger", "model=mlp", "+model.width=interval(1, 9)", "optimizer.lr=interval(0, 0.1)", "seed=3", "seed=4"]
    space = read_space(typed, None)
    chosen = {"model.width": 3, "optimizer.lr": 1e-05}
    assert space.make_overrides(chosen) == ["~logger", "model=mlp", "+model.width=3", "optimizer.lr=1e-05", "seed=4"]


def test_later_override_replaces_earlier_one() -> None:
    space = read_space(["a=interval(0, 1)", "b=interval(0, 1)", "a=0.5"], None)
    assert [setting.name for setting in space.dimensions] == ["b"]
    assert space.make_overrides({"b": 0.25}) == ["a=0.5", "b=0.25"]


@pytest.mark.parametrize(
    ("typed", "suggested", "used"),
    [
        ("interval(0.0, 1.0)", 0.123456, 0.1235),
        ("tag(log, interval(1e-5, 1.0))", 3.14159e-4, 3.142e-4),
        ("interval(0.12345, 1.0)", 0.123456, 0.1235),
        ("interval(0.123456, 1.0)", 0.1234561, 0.1235),
        ("interval(0.12341, 1.0)", 0.123412, 0.12341),
        ("interval(0.0, 0.99996)", 0.99996, 0.99996),
        ("interval(1, 1000000)", 123456, 123500),
        ("range(0, 1, 0.1)", 0.1 * 3, 0.3),
    ],
)
def test_suggestion_is_rounded_within_bounds(typed: str, suggested: float, used: float) -> None:
    """A suggested number is rounded to four digits, but not out of its bounds."""
    (setting,) = read_space([f"x={typed}"], None).dimensions
    assert setting.round_value(suggested) == used
    assert type(setting.round_value(suggested)) is type(used)


def test_setting_describes_its_values() -> None:
    typed = ["a=tag(log,interval(16,512))", "b=interval(0,0.5)", "c=true,false", "d=range(0,1,0.25)"]
    told = {setting.name: str(setting) for setting in read_space(typed, None).dimensions}
    assert told == {"a": "16 to 512 (whole, log)", "b": "0 to 0.5", "c": "True, False", "d": "0 to 0.75 (step 0.25)"}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("interval(0, 1)", "{_target_: os.system}"),
        ("interval(0, 1)", 2),
        ("interval(0.0, 1.0)", "0.5,0.6"),
        ("relu,tanh", "gelu"),
        ("relu,tanh", {"_target_": "os.system"}),
        ("relu,tanh", None),
    ],
)
def test_value_outside_space_is_refused(typed: str, value: object) -> None:
    """A value in a journal that is not in the search space is refused."""
    space = read_space([f"x={typed}"], None)
    with pytest.raises(InputError, match="is not one of its values"):
        space.make_overrides({"x": value})
