"""The report's figures for a paper."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from src.core.errors import InputError
from src.report import main
from src.sweeps.report.paper import write_figures
from src.sweeps.report.reading import read_sweeps
from tests.sweeps.reports import NASTY, epochs, make_accuracy_job

FILES = ["curves_loss", "effect_hidden_size", "effect_lr"]
COLUMN = 3.35 * 72  # points


def test_pdf_figures_fit_column_with_fonts(grid: Path) -> None:
    """PDF figures are one column wide, contain their fonts and are reproducible."""
    told: list[str] = []
    first = write_figures(read_sweeps([grid]), "pdf", (), told.append)
    assert (sorted(path.name for path in first), told) == ([f"{name}.pdf" for name in FILES], [])
    for path in first:
        content = path.read_bytes()
        assert b"/FontFile2" in content and b"/Subtype /Type3" not in content
        assert f"/MediaBox [ 0 0 {COLUMN:g} ".encode() in content
        assert b"CreationDate" not in content
    before = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in write_figures(read_sweeps([grid]), "pdf", (), told.append)] == before


def test_svg_needs_no_fonts(grid: Path) -> None:
    for path in write_figures(read_sweeps([grid]), "svg", (), print):
        root = ElementTree.parse(path).getroot()
        assert root.attrib["width"] == f"{COLUMN:g}pt"
        assert not list(root.iter("{http://www.w3.org/2000/svg}text"))


def test_axes_are_named_in_words(grid: Path) -> None:
    comments = "\n".join(path.read_text() for path in write_figures(read_sweeps([grid]), "svg", (), print))
    named = {words for words in re.findall("<!-- (.*?) -->", comments) if words[0].isalpha()}
    assert named == {"hidden size", "learning rate", "validation accuracy", "loss", "epoch"}


def test_each_data_set_has_own_figures(tmp_path: Path) -> None:
    """Each data set has its own figures, and markup in names is plain text."""
    for number in range(4):
        data, value = ("xor", "gate")[number // 2], (NASTY, "$x_")[number % 2]
        typed = (f"data={data}", f"+model.act={number % 2}")
        make_accuracy_job(tmp_path, f"{number}", *typed, settings={"model.act": value}, val=0.5, history=epochs(1, 0.5))
    told: list[str] = []
    files = write_figures(read_sweeps([tmp_path]), "pdf", (), told.append)
    names = ["curves_loss_xor", "curves_loss_gate", "effect_act_xor", "effect_act_gate"]
    assert (sorted(path.stem for path in files), told) == (sorted(names), [])


def test_unwritable_path_raises_error(grid: Path) -> None:
    (grid / "figures" / "effect_lr.pdf").mkdir(parents=True)
    with pytest.raises(InputError, match=r"effect_lr\.pdf"):
        write_figures(read_sweeps([grid]), "pdf", (), print)


def test_command_draws_requested_format(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(grid), "format=svg"])
    main()
    assert capsys.readouterr().out.splitlines()[0] == f"{grid}/report.html"
    assert sorted(path.name for path in (grid / "figures").iterdir()) == [f"{name}.svg" for name in FILES]
    monkeypatch.setattr(sys, "argv", ["report", str(grid), "format=png"])
    with pytest.raises(SystemExit, match=r"error: format=png: it is one of pdf, svg"):
        main()
    monkeypatch.setattr(sys, "argv", ["report", str(grid), "format=pdf", "format=svg"])
    with pytest.raises(SystemExit, match=r"error: format is given twice, format=pdf and format=svg"):
        main()
