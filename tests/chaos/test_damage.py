"""A short part of ``make chaos ARGS=damage``."""

from tests.chaos.damage import run


def test_damaged_files_are_told_in_one_line_or_do_no_harm() -> None:
    table = run(seed=0, count=30)
    assert not table.findings, table
    assert sum(row.tries for row in table.rows) == 30
