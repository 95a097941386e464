"""Write the leaderboards of a report as LaTeX tables."""

import re

from src.storage.status import DAMAGED
from src.sweeps.report.reading import Sweeps, get_sweep_names
from src.sweeps.report.tables import MORE, ChosenSummary, Column, make_columns, summarize_chosen
from src.sweeps.store.evidence import describe_tied
from src.sweeps.store.leaderboard import Leaderboard, format_table_title

OMITTED = ("seconds", "failed", DAMAGED, "pruned", "left", MORE)  # columns of the page
MAX_LATEX_ROWS = 20
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\dots{}",
    "\n": " ",
}


def format_latex(sweeps: Sweeps) -> str:
    """Return a LaTeX table per board, which needs the package booktabs; the chosen row is bold.

    The only test metric is the counterpart of the metric that chose, given for the chosen row only.
    """
    found = sweeps.leaderboards
    name = " and ".join(get_sweep_names(sweeps.folders).values())
    labels = [_format_latex_label(name, board.data if len(found) > 1 else None) for board in found]
    tables = [
        _format_latex_table(board, name, label if labels.count(label) == 1 else f"{label}-{index + 1}")
        for index, (board, label) in enumerate(zip(found, labels, strict=True))
    ]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _format_latex_label(*parts: str | None) -> str:
    """Return a table's LaTeX label made of parts: "tab:width-mnist"."""
    return "tab:" + "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts if part)


def _format_latex_table(board: Leaderboard, sweep: str, label: str) -> str:
    """Return a board's LaTeX table with caption and label.

    Args:
        board: the board.
        sweep: the name of the sweep.
        label: the label for ``\\ref``.
    """
    ranks = board.evidence.ranks if board.evidence else []
    shown = [Column("#", "rank", ranks, ranks)] if ranks else []
    shown += [column for column in make_columns(board) if column.name not in OMITTED]
    count = min(len(board.entries), MAX_LATEX_ROWS)
    best = summarize_chosen(board)
    tests = _find_counterparts(board, best)
    cells_by_name = [
        *((each.name, each.cells) for each in shown),
        *((test, [value] + [""] * count) for test, value in tests),
    ]
    rows = [
        _format_latex_row(
            [_to_latex_text(cells[row]) for _, cells in cells_by_name], bold=row == 0 and best is not None
        )
        for row in range(count)
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_to_latex_text(_format_caption(board, sweep, count, [test for test, _ in tests]))}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{{''.join('r' if column.is_numeric else 'l' for column in shown)}{'r' * len(tests)}}}",
        r"\toprule",
        _format_latex_row([_to_latex_text(name) for name, _ in cells_by_name]),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _find_counterparts(board: Leaderboard, best: ChosenSummary | None) -> list[tuple[str, str]]:
    """Return the test metric that corresponds to the one that chose the entry, or all test metrics if there is none."""
    tests = best.tests if best else []
    counterpart = f"test/{(board.ranking_metric or '').split('/', 1)[-1]}"
    return [test for test in tests if test[0] == counterpart] or tests


def _format_caption(board: Leaderboard, sweep: str, count: int, tests: list[str]) -> str:
    """Return the caption of a table: its subject, its order, how much of it is shown, and which row is bold."""
    parts = [f"{sweep}{f' on {board.data}' if board.data else ''}: {format_table_title(board, several=False)}"]
    if count < len(board.entries):
        parts.append(f"The first {count} of {len(board.entries)}")
    parts += [line.rstrip(".") for line in describe_tied(board.evidence)]
    if board.ranking_metric and board.chosen and len(board.entries) > 1:
        parts.append(f"Bold: {'chosen' if board.is_complete else 'best so far'} by the validation set")
    if tests:
        parts.append(f"{' and '.join(tests)} of the chosen row only")
    return ". ".join(" ".join(part.split()) for part in parts) + "."


def _format_latex_row(cells: list[str], bold: bool = False) -> str:
    return " & ".join(f"\\textbf{{{cell}}}" if bold and cell else cell for cell in cells) + r" \\"


def _to_latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(LATEX_ESCAPES.get(sign, sign) for sign in text)
