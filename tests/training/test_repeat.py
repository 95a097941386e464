"""python -m src.repeat: a run again from its own record, and what is said if it comes to something else."""

import json
import shutil
from pathlib import Path

import pytest

from src.api import load_run
from tests.command_line import read_json, run, train_bare

RUN = ("trainer.max_epochs=3", "model.hidden_size=4", "model.dropout=0.5", "trainer=cpu")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run named whole has finished."""
    cwd = tmp_path_factory.mktemp("repeat")
    train_bare(*RUN, "name=whole", cwd=cwd)
    return cwd


def copy_run(cwd: Path, name: str) -> Path:
    return Path(shutil.copytree(cwd / "outputs/runs/whole", cwd / "outputs/runs" / name))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**read_json(path), **changes}))


def test_repetition_is_identical(cwd: Path) -> None:
    outcome = run("src.repeat", "run=outputs/runs/whole", "out=again", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "identical: all 15 values of metrics.json and the metrics of 3 epochs agree" in outcome.out
    assert (cwd / "again/history.csv").read_bytes() == (cwd / "outputs/runs/whole/history.csv").read_bytes()
    assert read_json(cwd / "again/provenance.json")["samples"] == {"train": 100, "val": 100, "test": 100}
    error = run("src.repeat", "run=outputs/runs/whole", "out=again", cwd=cwd).error
    assert error == "error: again already exists: choose another out=…, or resume it: resume=again"


def test_differences_are_named(cwd: Path) -> None:
    """Another result of one epoch and of the test, and what was not as it was; the status is 3."""
    folder = copy_run(cwd, "changed")
    loss = read_json(folder / "metrics.json")["test/loss"]
    change_json(folder / "metrics.json", **{"test/loss": loss + 0.25})
    start = read_json(folder / "provenance.json")
    change_json(folder / "provenance.json", packages={**start["packages"], "torch": "1.0"}, python="3.0")
    header, first, second, last = (folder / "history.csv").read_text().splitlines()
    worse = f"{second[:-1]}{(int(second[-1]) + 1) % 10}"
    (folder / "history.csv").write_text("\n".join([header, first, worse, last, ""]))
    outcome = run("src.repeat", f"run={folder}", cwd=cwd)
    assert outcome.code == 3, outcome.text
    assert "different: 1 of 15 values of metrics.json and the metrics from epoch 2 on do not agree" in outcome.out
    assert f"test/loss: {loss + 0.25!r}, now {loss!r}, by 0.25\n" in outcome.out
    assert "  python: 3.0, now 3." in outcome.out and "  torch: 1.0, now 2." in outcome.out


def test_threads_are_those_of_then(cwd: Path) -> None:
    """A run is repeated with its number of threads, and a job of a stack alone, which is told."""
    path = copy_run(cwd, "stacked") / "provenance.json"
    change_json(path, stack={"jobs": 8, "log": "x"}, device="CPU, 2 threads")
    outcome = run("src.repeat", f"run={path.parent}", "out=stacked", cwd=cwd)
    assert outcome.code in (0, 3)
    assert "then it was trained in a stack of 8 jobs, which rounds differently, now alone" in outcome.out
    assert read_json(cwd / "stacked/provenance.json")["device"] == "CPU, 2 threads"
    assert "device:" not in outcome.out


def test_python_repeats_too(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cwd)
    found = load_run("outputs/runs/whole").repeat()
    assert found.is_identical and found.folder.parent == Path("outputs/runs")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("out=x",), "give the run to repeat: run=outputs/runs/NAME"),
        (("run=nowhere",), "run=nowhere: no run there (nowhere/.hydra/config.yaml is missing)"),
        (("run=outputs/runs/stopped",), "only a finished run can be repeated, and this one is interrupted"),
        (("run=outputs/runs/torn",), "metrics.json is missing, although the run has finished"),
        (("run=outputs",), "run=outputs: no run there"),
        (("run=sweep",), "run=sweep is a sweep: give the folder of one of its jobs"),
        (("outputs/runs/whole",), "did you mean run=outputs/runs/whole?"),
        (("run=outputs/runs/whole", "seed=1"), "seed: a run is repeated with its own settings; only these can be"),
        (("run=outputs/runs/foreign", "trust=mylab"), "model._target_=somewhere.Net is not trusted"),
        (("run=outputs/runs/weights",), "starts over from ckpt_path=elsewhere.ckpt: a folder must not choose a file"),
    ],
)
def test_unrepeatable_is_refused(settings: tuple[str, ...], told: str, cwd: Path) -> None:
    if not (cwd / "sweep").exists():
        (cwd / "sweep/0").mkdir(parents=True)
        (cwd / "sweep/0/job.json").write_text("{}")
        change_json(copy_run(cwd, "stopped") / "status.json", status="interrupted")
        (copy_run(cwd, "torn") / "metrics.json").unlink()
        for name, old, new in (
            ("foreign", "src.models.mlp.MLP", "somewhere.Net"),
            ("weights", "ckpt_path: null", "ckpt_path: elsewhere.ckpt"),
        ):
            path = copy_run(cwd, name) / ".hydra/config.yaml"
            path.write_text(path.read_text().replace(old, new))
    before = sorted(cwd.rglob("*"))
    assert told in run("src.repeat", *settings, cwd=cwd).error
    assert sorted(cwd.rglob("*")) == before
