"""Render the page of a report from its parts; the page is self-contained."""

from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from src.core.colours import TWELVE_ON_DARK, TWELVE_ON_LIGHT
from src.core.commands import spell_command
from src.storage.files import open_plain, replace_not_finite
from src.storage.records import DAMAGED
from src.storage.trust import spell_trust
from src.sweeps.report.curves import curves
from src.sweeps.report.gallery import Album, gallery, own_pictures
from src.sweeps.report.pairs import MOST_PAIRS, pair_figure, pairs
from src.sweeps.report.plots import Figure, effect_figure, effects, metric_of
from src.sweeps.report.reading import Sweeps, names, origin
from src.sweeps.report.search import searches
from src.sweeps.report.tables import Chosen, Column, chosen, columns, latex, leaderboard_csv, runs_csv, runs_table
from src.sweeps.store.leaderboard import MOST_ROWS, STATUSES, Board, Entry, boards, heading, many, typed
from src.sweeps.store.runs import Run

MOST_FAILURES = 8  # failures that are shown unfolded
MOST_TAILS = 50  # failures that are shown with the end of their log
TAIL_LINES, TAIL_BYTES = 15, 4000


class Part(NamedTuple):
    """The parts of the page that belong to one board; ``title`` names its data if there are several boards."""

    title: str
    heading: str
    entries: list[Entry]
    columns: list[Column]
    chosen: Chosen | None
    metric: str | None
    monitor: str | None
    validated: bool
    effects: list[Figure]
    pairs: list[Figure]
    all_pairs: int


def page(sweeps: Sweeps, files: dict[str, str], undrawn: list[Run], packages: tuple[str, ...]) -> str:
    """Return the HTML of the whole page.

    Args:
        sweeps: the sweeps that the report is about.
        files: the contents of the files to download, by name.
        undrawn: the runs whose figures are missing; the page shows the command that draws them.
        packages: packages outside this project that this command has to trust.
    """
    found, album = boards(sweeps.runs), Album(sweeps)
    return (
        environment(sweeps)
        .get_template("page.html")
        .render(
            title=" and ".join(names(sweeps.folders).values()),
            now=when(datetime.now(UTC).isoformat()),
            runs=sweeps.runs,
            counts=Counter(run.status for run in sweeps.runs),
            origin=origin(sweeps),
            parts=[part(board, several=len(found) > 1) for board in found],
            searches=searches(sweeps),
            curves=curves(sweeps),
            own=own_pictures(sweeps, album),
            gallery=gallery(sweeps, album),
            undrawn=undrawn,
            draw_command=f"{spell_command('src.report')} {' '.join(map(typed, sweeps.folders))}{spell_trust(packages)}",
            failures=(stopped := failures(sweeps)),
            reasons=Counter(each.reason for each in stopped),
            table=runs_table(sweeps),
            files=files,
            notes=sweeps.notes,
        )
    )


def tables_to_take(sweeps: Sweeps) -> dict[str, str]:
    """Return the contents of the tables to download, by file name."""
    return {
        "leaderboard.tex": latex(sweeps),
        "leaderboard.csv": leaderboard_csv(sweeps),
        "runs.csv": runs_csv(sweeps),
    }


def part(board: Board, several: bool) -> Part:
    """Return the parts of the page that belong to a board."""
    known = effects(board)
    both = pairs(known)
    return Part(
        title=board.data or "other data" if several else "",
        heading=heading(board, several=False),
        entries=board.entries,
        columns=columns(board),
        chosen=chosen(board),
        metric=metric_of(board),
        monitor=board.monitor,
        validated=board.judge is not None,
        effects=[effect_figure(each, board) for each in known],
        pairs=[pair_figure(*pair, board) for pair in both[:MOST_PAIRS]],
        all_pairs=len(both),
    )


class Failure(NamedTuple):
    """A run that did not finish, with the end of its log; ``None`` if there is no log or it is not shown."""

    run: Run
    tail: str | None

    @property
    def reason(self) -> str:
        return self.run.reason or self.run.status


def failures(sweeps: Sweeps) -> list[Failure]:
    """Return the runs that failed, are damaged or were interrupted, in this order.

    The first `MOST_TAILS` come with the end of their log.
    """
    stopped = [run for status in ("failed", DAMAGED, "interrupted") for run in sweeps.runs if run.status == status]
    return [
        Failure(run, tail(run.folder) if run.known and index < MOST_TAILS else None)
        for index, run in enumerate(stopped)
    ]


def tail(folder: Path) -> str | None:
    """Return the last lines of a run's newest log, or ``None`` if there are none."""
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return None
    with open_plain(logs[-1]) as file:
        file.seek(max(0, logs[-1].stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:]) or None


# Templates and formatting


def environment(sweeps: Sweeps) -> Environment:
    """Return the Jinja environment of the page, which escapes every text that a template inserts."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "when": when,
        "lasted": lasted,
        "link": sweeps.link,
        "json": json,
        "download": download,
        "many": many,
    }
    templates.globals |= {
        "statuses": STATUSES,
        "most_rows": MOST_ROWS,
        "most_failures": MOST_FAILURES,
        "colours": {"light": TWELVE_ON_LIGHT, "dark": TWELVE_ON_DARK},
        "plotly": Markup(get_plotlyjs()),
    }
    # Our own CSS and JavaScript files must not be escaped.
    templates.globals["part_of"] = lambda name: Markup((Path(__file__).parent / name).read_text())
    return templates


def when(time: str) -> str:
    """Format a time given in ISO 8601: "2025-01-31 09:30 UTC"."""
    return f"{time[:10]} {time[11:16]} UTC"


def lasted(seconds: float) -> str:
    """Format a duration in hours, minutes or seconds: "1 h 5 min", "12 s"."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def json(content: Any) -> Markup:
    """Return content as JSON that is safe inside a script element."""
    return htmlsafe_json_dumps(replace_not_finite(content), separators=(",", ":"))


def download(text: str, name: str) -> str:
    """Return a file's content as a data URI."""
    kind = {"csv": "text/csv", "tex": "text/x-tex"}[name.split(".")[-1]]
    return f"data:{kind};charset=utf-8;base64,{b64encode(text.encode()).decode()}"
