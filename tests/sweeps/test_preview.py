"""preview=true: what a sweep would run and take, and that nothing is left behind."""

from pathlib import Path

import pytest

from tests.command_line import BARE, Outcome, run
from tests.sweeps.outcomes import read_sweep_jobs

SWEEP = ("-m", *BARE, "model.hidden_size=4", "trainer.max_epochs=4", "trainer=cpu", "name=swept", "seed=0")
RATES = "optimizer.lr=0.003,0.03,0.1"


def list_files(cwd: Path) -> dict[Path, int]:
    """All files and folders, with the times when they were changed."""
    return {path: path.stat().st_mtime_ns for path in [cwd, *cwd.rglob("*")]}


def preview(cwd: Path, *settings: str) -> Outcome:
    """Preview a sweep, and see that it leaves nothing."""
    before = list_files(cwd)
    outcome = run("src.train", *settings, "preview=true", cwd=cwd)
    assert list_files(cwd) == before
    return outcome


def read_rows(outcome: Outcome) -> dict[str, list[str]]:
    """The lines of a preview, by the word that they begin with."""
    assert outcome.code == 0, outcome.text
    assert outcome.text.rstrip().splitlines()[-1].startswith("nothing was run or written")
    rows, word = dict[str, list[str]](), ""
    for line in outcome.out.split("\n\n")[0].splitlines()[1:]:
        word = line[2:11].strip() or word
        rows.setdefault(word, []).append(line[12:])
    return rows


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two of three jobs have finished."""
    cwd = tmp_path_factory.mktemp("partly")
    assert run("src.train", *SWEEP, "optimizer.lr=0.003,0.03", cwd=cwd).code == 0
    return cwd


def test_new_sweep_is_shown(tmp_path: Path) -> None:
    outcome = preview(tmp_path, *SWEEP, RATES, "model.dropout=0,0.2", "hydra.launcher.jobs=3")
    rows = read_rows(outcome)
    assert outcome.out.startswith("outputs/sweeps/swept: 6 jobs: 6 to do\n")
    assert rows["varies"] == ["optimizer.lr: 0.003, 0.03, 0.1", "model.dropout: 0, 0.2"]
    assert rows["at once"] == ["at most 3 processes (hydra/launcher=local)"]
    assert rows["epochs"] == ["24 in all"]
    assert rows["time"][0].startswith("unknown until a job of this kind has finished")
    assert "optimizer.lr=0.003 model.dropout=0 trainer.max_epochs=1 name=measured" in rows["time"][1]
    table = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines() if "optimizer.lr  " in line}
    assert table == {"optimizer.lr": ["0.003", "0.1"]}


def test_finished_jobs_tell_cost(partly: Path) -> None:
    """Finished jobs are counted, and the others are estimated from them; the preview is no part of a job's identity."""
    outcome = preview(partly, *SWEEP, RATES)
    rows = read_rows(outcome)
    assert "3 jobs: 2 finished before" in outcome.out and "1 to do" in outcome.out
    assert rows["epochs"] == ["12 in all, of which 4 are left"]
    assert rows["time"][0].endswith("as 2 finished jobs of this sweep took on CPU, 1 thread")
    files = [path for job in read_sweep_jobs(partly, "swept") for path in job.folder.rglob("*") if path.is_file()]
    assert float(rows["disk"][0].split()[1]) == pytest.approx(
        sum(path.stat().st_size for path in files) / 2e6, rel=0.01
    )
    all_of_it = preview(partly, *SWEEP, "optimizer.lr=0.003,0.03")
    assert "all jobs have finished" in all_of_it.out and "time" not in read_rows(all_of_it)
    again = preview(partly, *SWEEP, RATES, "rerun=all")
    assert "3 jobs: all run again" in again.out and read_rows(again)["epochs"] == ["12 in all"]


def test_other_runs_tell_cost(partly: Path) -> None:
    """A new sweep is estimated from earlier runs that differ from its jobs in cheap numbers only."""
    alike = (*(each for each in SWEEP if "name=" not in each), "name=new", "optimizer.lr=0.5,0.6", "model.l2=0.1")
    rows = read_rows(preview(partly, *alike))
    assert rows["time"][0].endswith("as 2 earlier runs in outputs took on CPU, 1 thread")
    other = read_rows(preview(partly, *[each.replace("hidden_size=4", "hidden_size=9") for each in alike]))
    assert other["time"][0].startswith("unknown")


def test_halving_counts_each_rung(tmp_path: Path) -> None:
    """Three, two and one settings run to epochs 1, 2 and 4: seven epochs instead of twelve."""
    rows = read_rows(preview(tmp_path, *SWEEP, RATES, "hydra/sweeper=halving", "hydra.sweeper.factor=2"))
    assert rows["epochs"] == [
        "7 in all, 58% of the 12 of the plain sweep",
        *("epoch 1: 3 jobs", "epoch 2: 2 jobs", "epochs 3 to 4: 1 job"),
    ]


def test_stacks_are_shown_with_reasons(tmp_path: Path) -> None:
    settings = (RATES, "trainer.gradient_clip_val=null,1", "hydra/launcher=vectorized", "hydra.launcher.jobs=1")
    rows = read_rows(preview(tmp_path, *SWEEP, *settings))
    assert rows["stacks"] == [
        "3 jobs in 1 stack (1× 3); figures are drawn on demand",
        "3 run separately, because of trainer.gradient_clip_val=1: 1, 3, 5",
    ]


def test_search_shows_trials(tmp_path: Path) -> None:
    own = ("hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "model.dropout=0,0.5")
    search = (*SWEEP, *own, "hydra.sweeper.trials=2", "hydra.sweeper.at_once=1", "hydra.launcher.jobs=1")
    rows = read_rows(preview(tmp_path, *search))
    assert rows["searched"] == ["model.dropout: 0, 0.5", "optimizer.lr: 0.0001 to 0.1 (log)"]
    assert rows["epochs"] == ["at most 8 in all, of which 8 are left"]
    assert run("src.train", *search, cwd=tmp_path).code == 0
    more = preview(tmp_path, *search[:-3], "hydra.sweeper.trials=5", *search[-2:])
    assert "5 trials (tpe), 2 done before (2 complete), 3 to do" in more.out
    assert read_rows(more)["time"][0].endswith("as 2 finished jobs of this sweep took on CPU, 1 thread")
    other = run("src.train", *search, "model.l2=0.1", "preview=true", cwd=tmp_path)
    assert other.error.startswith("error: model.l2 is 0.1 and the search in outputs/sweeps/swept has 0")


def test_preview_starts_no_cluster(tmp_path: Path) -> None:
    rows = read_rows(preview(tmp_path, *SWEEP, RATES, "hydra/launcher=ray"))
    assert rows["at once"] == ["as many as the cluster has room for (hydra/launcher=ray)"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("preview=true",), "preview=true is for sweeps (-m, sweep=): --cfg job shows the settings of a run"),
        (("-m", "seed=0,1", "preview=yes"), "preview=yes must be true or false"),
        (("-m", "seed=0,1", "preview=true,false"), "preview=… is about the whole sweep: give it one value"),
        (("-m", "seed=0,1", "preview=true", "hydra/launcher=basic"), "preview=true needs hydra/launcher=local"),
        (("-m", "seed=0,1", "preview=true", "model.dropout=2"), "model.dropout=2 must be a number from 0 to below 1"),
        (("-m", "seed=0,1", "preview=true", "name=taken"), "outputs/sweeps/taken already exists: choose another name"),
    ],
)
def test_wrong_previews_are_refused(settings: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "outputs/sweeps/taken/of_somebody").mkdir(parents=True)
    before = list_files(tmp_path)
    assert told in run("src.train", *settings, cwd=tmp_path).error
    assert list_files(tmp_path) == before
