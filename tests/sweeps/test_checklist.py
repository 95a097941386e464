"""The checklist for authors: what a folder tells is filled in, what it cannot tell is left open."""

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import BARE, read_json, run, train_bare

SWEEP = ("-m", *BARE, "optimizer=sgd", "trainer.max_epochs=2", "trainer=cpu", "name=swept", "model.l2=0,1e30")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two of four jobs have finished and the others diverged."""
    cwd = tmp_path_factory.mktemp("checklist")
    assert run("src.train", *SWEEP, "seed=0,1", cwd=cwd).code == 1
    return cwd


def print_checklist(folder: str, cwd: Path) -> list[str]:
    outcome = run("src.repeat", f"run={folder}", "checklist=true", cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome.out.splitlines()


def test_sweep_fills_in_what_it_knows(cwd: Path) -> None:
    lines = print_checklist("outputs/sweeps/swept", cwd)
    assert lines[0] == "# Reproducibility checklist: swept"
    known = [line for line in lines if line.startswith("- [x]")]
    items = [line for line in lines if line.startswith("- [")]
    assert lines[2].startswith(f"{len(known)} of {len(items)} items are filled in")
    assert {line[3] for line in items} == {"x", " "}
    assert "- [x] Samples: 100 train, 100 val, 100 test." in known
    assert "- [x] Searched: model.l2: 0, 1e+30." in known
    assert "- [x] Jobs: 4, of which 2 finished, 2 failed; none is left out (results.csv)." in known
    assert "- [x] Failed because of: diverged (2)." in known
    assert "- [x] What varies between runs of a setting: seed=0 or 1; ±: standard deviation." in known
    result = next(line for line in known if line.startswith("- [x] Result: "))
    losses = [read_json(path)["test/loss"] for path in sorted(cwd.glob("outputs/sweeps/swept/[01]_*/metrics.json"))]
    assert "l2 0, n = 2: val/acc " in result and f"test/loss {sum(losses) / 2:.4g} ± " in result
    assert "- [ ] What was tried elsewhere: other sweeps, by hand, by others whose settings were taken over." in items


def test_run_of_a_table_has_fingerprint(tmp_path: Path) -> None:
    """The digest of the file, its split, and what the run noted about its columns."""
    rows = [f"{number},{number % 7},{number % 3}" for number in range(60)]
    (tmp_path / "own.csv").write_text("\n".join(["row,other,kind", *rows, ""]))
    settings = ("data=table", "data.file=own.csv", "data.target=kind", "trainer.max_epochs=1", "name=own")
    folder = train_bare(*settings, cwd=tmp_path).folder
    lines = print_checklist("outputs/runs/own", tmp_path)
    assert "- [x] Source: src.data.table.Table (file=own.csv, target=kind)." in lines
    assert "- [x] Samples: 38 train, 10 val, 12 test." in lines
    assert any(line.startswith("- [x] Fingerprint: ") for line in lines)
    assert any(line.startswith("- [x] Noted by the run: ") and "; row differs in every row" in line for line in lines)
    assert "- [ ] Spread: each setting was run once; seeds as an axis, 'seed=range(5)', would show it." in lines
    start = read_json(folder / "provenance.json")
    del start["samples"], start["git"]
    (folder / "provenance.json").write_text(json.dumps({**start, "command": "python\u001b[31m -m src.train"}))
    (folder / "checkpoints/best.ckpt").unlink()
    lines = print_checklist("outputs/runs/own", tmp_path)
    assert "- [ ] Samples: how many of train, val and test." in lines
    assert "- [ ] Code: its commit is not recorded." in lines
    assert "- [x] Command: `python\\x1b[31m -m src.train`" in lines


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("run=outputs", "checklist=true"), "run=outputs: there is neither a run nor a sweep"),
        (("run=outputs/sweeps/swept", "checklist=maybe"), "checklist=maybe must be true or false"),
        (("run=outputs/sweeps/swept", "checklist=true", "out=x"), "checklist=true repeats nothing: give run=FOLDER"),
        (("run=linked", "checklist=true"), "is a link that leads out of linked"),
    ],
)
def test_wrong_checklists_are_refused(settings: tuple[str, ...], told: str, cwd: Path) -> None:
    if not (cwd / "linked").exists():
        shutil.copytree(cwd / "outputs/sweeps/swept", cwd / "linked")
        (cwd / "linked/elsewhere").symlink_to("/etc")
    assert told in run("src.repeat", *settings, cwd=cwd).error
