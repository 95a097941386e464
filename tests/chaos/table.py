"""The table that an attack ends with."""

from typing import NamedTuple


class Row(NamedTuple):
    """What came of one kind of fault.

    Attributes:
        fault: what was done.
        tries: how often.
        lost: how often something was lost.
        wrong: how often something else was wrong: a traceback, a wrong result, a folder that no command takes.
        note: what else there is to say.
    """

    fault: str
    tries: int
    lost: int
    wrong: int
    note: str = ""


class Table(NamedTuple):
    """The rows, and a line for each finding, with what replays it."""

    rows: list[Row]
    findings: list[str]

    @property
    def wrong(self) -> int:
        return sum(row.lost + row.wrong for row in self.rows)

    def __str__(self) -> str:
        total = Row("all", *(sum(row[column] for row in self.rows) for column in (1, 2, 3)))  # type: ignore[misc]
        lines = [("fault", "tries", "lost", "wrong", "verdict", "")]
        for row in [*self.rows, *([total] if len(self.rows) > 1 else [])]:
            verdict = "did not hold" if row.lost + row.wrong else "held"
            lines.append((row.fault, f"{row.tries:,}", str(row.lost), str(row.wrong), verdict, row.note))
        widths = [max(len(line[column]) for line in lines) for column in range(6)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*text, *self.findings])
