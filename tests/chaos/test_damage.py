"""A short part of ``make chaos ARGS=damage``."""

from tests.chaos.damage import run


def test_damaged_files_give_one_line_error() -> None:
    """A damaged file is reported in one line or has no effect."""
    table = run(seed=0, count=30)
    assert not table.findings, table
    assert sum(row.tries for row in table.rows) == 30
