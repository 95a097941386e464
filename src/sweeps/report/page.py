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

from src.core.colours import LINES_ON_DARK, LINES_ON_LIGHT
from src.core.commands import format_command
from src.core.formatting import format_count, format_long_duration, quote_relative_path
from src.storage.files import open_regular_file, replace_non_finite
from src.storage.status import DAMAGED
from src.storage.trust import format_trust
from src.sweeps.report.curves import collect_curves
from src.sweeps.report.gallery import ImageEmbedder, collect_run_figures, collect_sweep_figures
from src.sweeps.report.latex import format_latex
from src.sweeps.report.pairs import MAX_PAIRS, find_pairs, make_pair_figure
from src.sweeps.report.plots import PlotlyFigure, choose_metric, collect_effects, make_effect_figure
from src.sweeps.report.reading import Sweeps, get_sweep_names, read_provenance
from src.sweeps.report.search import draw_searches
from src.sweeps.report.tables import (
    ChosenSummary,
    Column,
    format_leaderboard_csv,
    format_runs_csv,
    make_columns,
    make_runs_table,
    summarize_chosen,
)
from src.sweeps.store.entries import LeaderboardEntry
from src.sweeps.store.evidence import describe_optimism, describe_tied
from src.sweeps.store.leaderboard import (
    MAX_ROWS,
    STATUSES,
    Leaderboard,
    format_table_title,
)
from src.sweeps.store.runs import Run

MAX_FAILURES = 8  # failures that are shown unfolded
MAX_TAILS = 50  # failures that are shown with the end of their log
TAIL_LINES, TAIL_BYTES = 15, 4000


class LeaderboardSection(NamedTuple):
    """The parts of the page that belong to one board.

    ``title`` names its data if there are several boards; ``ranks`` has each entry's rank, which entries that cannot be
    told from the best share; ``tied`` and ``optimism`` are lines of text, if there is something to say.
    """

    title: str
    heading: str
    entries: list[LeaderboardEntry]
    columns: list[Column]
    ranks: list[str]
    tied: list[str]
    optimism: list[str]
    chosen: ChosenSummary | None
    metric: str | None
    monitor: str | None
    validated: bool
    effects: list[PlotlyFigure]
    pairs: list[PlotlyFigure]
    pair_count: int


def render_page(sweeps: Sweeps, files: dict[str, str], missing_figures: list[Run], packages: tuple[str, ...]) -> str:
    """Return the HTML of the whole page.

    Args:
        sweeps: the sweeps that the report is about.
        files: the contents of the files to download, by name.
        missing_figures: the runs whose figures are missing; the page shows the command that draws them.
        packages: packages outside this project that this command has to trust.
    """
    found, album = sweeps.leaderboards, ImageEmbedder(sweeps)
    return (
        _make_environment(sweeps)
        .get_template("page.html")
        .render(
            title=" and ".join(get_sweep_names(sweeps.folders).values()),
            now=_format_time(datetime.now(UTC).isoformat()),
            runs=sweeps.runs,
            counts=Counter(run.status for run in sweeps.runs),
            epochs=_describe_epochs(sweeps.runs),
            origin=read_provenance(sweeps),
            parts=[_make_section(board, several=len(found) > 1) for board in found],
            searches=draw_searches(sweeps),
            curves=collect_curves(sweeps),
            own=collect_sweep_figures(sweeps, album),
            gallery=collect_run_figures(sweeps, album),
            undrawn=missing_figures,
            draw_command=" ".join([format_command("src.report"), *map(quote_relative_path, sweeps.folders)])
            + format_trust(packages),
            failures=(stopped := _collect_failures(sweeps)),
            reasons=Counter(each.reason for each in stopped),
            table=make_runs_table(sweeps),
            files=files,
            notes=sweeps.warnings,
        )
    )


def _describe_epochs(runs: list[Run]) -> str:
    """Return how many epochs a halved sweep has trained, of those of all its jobs; "" for any other."""
    whole = max((run.metrics.get("epochs", 0) for run in runs if run.status == "finished"), default=0)
    if not whole or all(run.status != "pruned" for run in runs):
        return ""
    spent = sum(run.metrics.get("epochs", 0) for run in runs)
    return f"{spent:,} trained, of {whole * len(runs):,} without halving"


def make_tables(sweeps: Sweeps) -> dict[str, str]:
    """Return the contents of the tables to download, by file name."""
    return {
        "leaderboard.tex": format_latex(sweeps),
        "leaderboard.csv": format_leaderboard_csv(sweeps),
        "runs.csv": format_runs_csv(sweeps),
    }


def _make_section(board: Leaderboard, several: bool) -> LeaderboardSection:
    """Return the parts of the page that belong to a board."""
    known, evidence = collect_effects(board), board.evidence
    both = find_pairs(known)
    return LeaderboardSection(
        title=board.data or "other data" if several else "",
        heading=format_table_title(board, several=False),
        entries=board.entries,
        columns=make_columns(board),
        ranks=evidence.ranks if evidence else [str(row + 1) for row in range(len(board.entries))],
        tied=describe_tied(evidence),
        optimism=describe_optimism(evidence, board.ranking_metric, len(board.entries)),
        chosen=summarize_chosen(board),
        metric=choose_metric(board),
        monitor=board.monitor,
        validated=board.ranking_metric is not None,
        effects=[make_effect_figure(each, board) for each in known],
        pairs=[make_pair_figure(*pair, board) for pair in both[:MAX_PAIRS]],
        pair_count=len(both),
    )


class Failure(NamedTuple):
    """A run that did not finish, with the end of its log; ``None`` if there is no log or it is not shown."""

    run: Run
    tail: str | None

    @property
    def reason(self) -> str:
        return self.run.reason or self.run.status


def _collect_failures(sweeps: Sweeps) -> list[Failure]:
    """Return the runs that failed, are damaged or were interrupted, in this order.

    The first `MAX_TAILS` come with the end of their log.
    """
    stopped = [run for status in ("failed", DAMAGED, "interrupted") for run in sweeps.runs if run.status == status]
    return [
        Failure(run, _read_log_tail(run.folder) if run.is_known and index < MAX_TAILS else None)
        for index, run in enumerate(stopped)
    ]


def _read_log_tail(folder: Path) -> str | None:
    """Return the last lines of a run's newest log, or ``None`` if there are none."""
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return None
    with open_regular_file(logs[-1]) as file:
        file.seek(max(0, logs[-1].stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:]) or None


# Templates and formatting


def _make_environment(sweeps: Sweeps) -> Environment:
    """Return the Jinja environment of the page, which escapes every text that a template inserts."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "when": _format_time,
        "lasted": format_long_duration,
        "link": sweeps.get_url,
        "json": _to_json,
        "download": _make_data_uri,
        "many": format_count,
    }
    templates.globals |= {
        "statuses": STATUSES,
        "most_rows": MAX_ROWS,
        "most_failures": MAX_FAILURES,
        "colours": {"light": LINES_ON_LIGHT, "dark": LINES_ON_DARK},
        "plotly": Markup(get_plotlyjs()),
    }
    # Our own CSS and JavaScript files must not be escaped.
    templates.globals["part_of"] = lambda name: Markup((Path(__file__).parent / name).read_text())
    return templates


def _format_time(time: str) -> str:
    """Format a time given in ISO 8601: "2025-01-31 09:30 UTC"."""
    return f"{time[:10]} {time[11:16]} UTC"


def _to_json(content: Any) -> Markup:
    """Return content as JSON that is safe inside a script element."""
    return htmlsafe_json_dumps(replace_non_finite(content), separators=(",", ":"))


def _make_data_uri(text: str, name: str) -> str:
    """Return a file's content as a data URI."""
    kind = {"csv": "text/csv", "tex": "text/x-tex"}[name.split(".")[-1]]
    return f"data:{kind};charset=utf-8;base64,{b64encode(text.encode()).decode()}"
