"""The list of all runs and sweeps."""

from pathlib import Path

import pytest
from filelock import FileLock

from src.storage.files import write_json, write_text
from tests.command_line import Outcome, run


def list_runs(*arguments: str, cwd: Path) -> Outcome:
    return run("src.runs", *arguments, cwd=cwd)


def read_table(outcome: Outcome) -> list[list[str]]:
    """Return the table's rows below its head, the cells apart where the head's names begin."""
    head, _, *rows = outcome.out.splitlines()
    places = [head.index(name) for name in ("started", "folder", "settings", "best", "status")]
    ends = [*places[1:], None]
    return [[row[start:end].strip() for start, end in zip(places, ends, strict=True)] for row in rows]


def make_run(folder: Path, day: int, command: str, status: str = "finished", **metrics: object) -> Path:
    write_text(folder / ".hydra" / "config.yaml", "model: {}")
    started = f"2026-01-{day:02}T12:00:00+00:00"
    write_json(folder / "provenance.json", {"started": started, "command": f"python -m src.train {command}"})
    write_json(folder / "status.json", {"status": status, "reason": None, "message": None})
    told = {"monitor": "val/acc", "mode": "max", "best": None, **metrics}
    write_json(folder / "metrics.json", {str(told["monitor"]): told["best"], **told})
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three runs and a sweep of three jobs."""
    runs = tmp_path / "outputs" / "runs"
    make_run(runs / "a", 1, "data=mnist name=a", best=0.5)
    make_run(runs / "b", 3, "data=wheat 'model.hidden_size=[4, 4]'", monitor="val/loss", mode="min", best=0.25)
    make_run(runs / "c", 2, "data=mnist optimizer.lr=9", "failed")
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    write_text(sweep / "multirun.yaml", "hydra: {}")
    for number, (status, best) in enumerate({"finished": 0.75, "failed": None, "running": 0.9}.items()):
        job = make_run(sweep / f"{number}_seed-{number}", 4, "-m data=mnist seed=0,1,2", status, best=best)
        notes = {"identity": f"{number}", "overrides": [], "choices": {}, "settings": {}}
        write_json(job / "job.json", {"number": number, **notes})
    write_text(sweep / "results.csv", "number,val/acc\n0,0.75\n1,\n2,0.9\n")
    return tmp_path


def test_runs_are_listed_newest_first(outputs: Path) -> None:
    rows = read_table(list_runs(cwd=outputs))
    assert [row[1] for row in rows] == [f"outputs/{each}" for each in ("sweeps/s", "runs/b", "runs/c", "runs/a")]
    assert rows[0][2:] == ["data=mnist seed=0,1,2", "val/acc 90.00%", "3 jobs: 1 finished, 1 failed, 1 stopped"]
    assert rows[1][2:] == ["data=wheat 'model.hidden_size=[4, 4]'", "val/loss 0.25", "finished"]
    assert rows[2][2:] == ["data=mnist optimizer.lr=9", "", "failed"]


def test_filter_matches_all_words(outputs: Path) -> None:
    """Only rows that contain all words of the filter are kept."""
    rows = read_table(list_runs("--filter", "MNIST", "--filter", "failed", cwd=outputs))
    assert [row[1] for row in rows] == ["outputs/sweeps/s", "outputs/runs/c"]


@pytest.mark.parametrize(
    ("order", "folders"),
    [("result", ["s", "a", "c", "b"]), ("name", ["a", "b", "c", "s"]), ("status", ["s", "c", "b", "a"])],
)
def test_rows_are_sorted(order: str, folders: list[str], outputs: Path) -> None:
    rows = read_table(list_runs("--sort", order, cwd=outputs))
    assert [Path(row[1]).name for row in rows] == folders


def test_running_status_needs_held_folder(outputs: Path) -> None:
    """A run is listed as running only while a process holds its folder."""
    folder = make_run(outputs / "outputs" / "runs" / "d", 5, "data=xor", "running")
    assert read_table(list_runs(cwd=outputs))[0][-1] == "stopped"
    with FileLock(folder / ".lock"):
        assert read_table(list_runs(cwd=outputs))[0][-1] == "running"


def test_damaged_files_are_named(outputs: Path) -> None:
    """Damaged files are named in the status, and their cells are empty."""
    folder = outputs / "outputs" / "runs" / "a"
    for name in ("metrics.json", "provenance.json", "status.json"):
        (folder / name).write_bytes(b"\xff")
    (outputs / "outputs" / "sweeps" / "s" / "1_seed-1" / "job.json").write_text("{}")
    rows = {row[1]: row[2:] for row in read_table(list_runs(cwd=outputs))}
    assert rows["outputs/runs/a"] == ["", "", "damaged (status.json, metrics.json)"]
    assert rows["outputs/sweeps/s"][-1] == "3 jobs: 1 finished, 1 damaged, 1 stopped"


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    """A folder that does not exist ends in an error of one line."""
    outcome = list_runs("nowhere", cwd=tmp_path)
    assert outcome.error == "error: nowhere: there is no such folder"
    error = run("src.runs", "filter=mnist", cwd=tmp_path).error
    assert error == "error: filter=mnist: there is no such folder; did you mean --filter mnist?"
