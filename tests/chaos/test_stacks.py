"""A short part of ``make chaos ARGS=stacks``."""

from tests.chaos.stacks import run


def test_random_stacks_equal_single_runs() -> None:
    """Random jobs of other shapes come in one stack to what each comes to alone."""
    table = run(seed=0, count=3)
    assert not table.findings, table
