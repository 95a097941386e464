"""The notebook docs/notebooks/tour.ipynb: its cells run one after another, and what they show can be shown."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from src import api
from tests.command_line import ROOT, run

CELLS = json.loads((ROOT / "docs/notebooks/tour.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run_cell(code: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return what it shows: its last expression."""
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)

    def run_command(module: str, arguments: list[str]) -> None:  # in this process, which is quicker
        arguments += ["hydra/launcher=basic"] * (module == "src.train")
        assert run(module, *arguments, cwd=tmp_path).code == 0

    monkeypatch.setattr(api, "run_command", run_command)
    names: dict[str, Any] = {}
    shown = [run_cell(code, names) for code in CODE]
    html = [each._repr_html_() for each in shown if hasattr(each, "_repr_html_")]
    assert len(html) == 5 and all("<table" in each for each in html)
    assert shown[4]._repr_png_().startswith(b"\x89PNG")
    assert shown[5][0] == ["0", "1", "1", "0"]
    assert shown[9] == tmp_path / "outputs/sweeps/tour/report.html" and shown[9].is_file()
    assert shown[10] == (15, 3)
    assert "did you mean optimizer.lr?" in capsys.readouterr().out


def test_notebook_is_kept_without_outputs() -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
