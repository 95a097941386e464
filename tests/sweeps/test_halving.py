"""Sweeps by successive halving: who goes on, and that nobody who does is changed by it."""

import shutil
from pathlib import Path

import pytest

from src.core.errors import InputError
from src.core.processes import EPOCH_LIMIT_VARIABLE
from src.sweeps.launchers.cluster import make_remote_job
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.search.halving import Candidate, group_repeats, rank_candidates
from src.sweeps.search.rungs import Rung, deal_brackets, plan_rungs
from src.sweeps.store.hparams import EVENT_FILE
from src.sweeps.store.jobs import Job
from tests.command_line import BARE, Outcome, is_identical, load_checkpoint, read_json, read_weights, run
from tests.sweeps.outcomes import assert_same_results, read_csv, read_rows, read_statuses, read_sweep_jobs
from tests.sweeps.reports import Page
from tests.trouble import FaultInjector, inject_faults, read_events

SWEEP = (
    *("-m", *BARE, FaultInjector.SETTING, "model.hidden_size=4", "trainer.max_epochs=4", "trainer=cpu", "name=swept"),
    *("optimizer.lr=0.003,0.03,0.1", "seed=0", "hydra.launcher.jobs=2"),
)
HALVING = ("hydra/sweeper=halving", "hydra.sweeper.factor=2")  # rungs after epochs 1 and 2: 3, 2 and 1 settings
STACKED = (*(each for each in SWEEP if each != FaultInjector.SETTING), "hydra/launcher=vectorized")
STATUSES, EPOCHS = ["pruned", "finished", "pruned"], [1, 4, 2]


def sweep(cwd: Path, *settings: str) -> Outcome:
    inject_faults(cwd, {})
    outcome = run("src.train", *settings, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plain sweep ran."""
    cwd = tmp_path_factory.mktemp("whole")
    sweep(cwd, *SWEEP)
    return cwd


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Where the halved sweep ran, and what it printed."""
    cwd = tmp_path_factory.mktemp("halved")
    return cwd, sweep(cwd, *SWEEP, *HALVING)


def read_epochs(cwd: Path) -> list[int]:
    return [job.metrics["epochs"] for job in read_sweep_jobs(cwd, "swept")]


def test_survivors_equal_plain_sweep(whole: Path, halved: tuple[Path, Outcome]) -> None:
    """A job that goes on is the plain sweep's to the last bit; one that is pruned is the beginning of the plain one."""
    cwd, _ = halved
    assert read_statuses(cwd, "swept") == STATUSES and read_epochs(cwd) == EPOCHS
    for job, other in zip(read_sweep_jobs(cwd, "swept"), read_sweep_jobs(whole, "swept"), strict=True):
        assert job.identity == other.identity
        rows, others = (read_csv(each.folder / "history.csv") for each in (job, other))
        assert rows == others[: len(rows)]
        if job.status["status"] == "finished":
            assert_same_results([job], [other])
            mine, theirs = (load_checkpoint(each.folder / "checkpoints" / "last.ckpt") for each in (job, other))
            for part in ("optimizer_states", "lr_schedulers", "loops"):
                assert is_identical(mine[part], theirs[part])


def test_results_tell_pruned_jobs(halved: tuple[Path, Outcome]) -> None:
    """Pruned is a status of its own in the table, results.csv, HParams and the report, with what was saved."""
    cwd, outcome = halved
    folder = cwd / "outputs" / "sweeps" / "swept"
    assert "after epoch 1: 2 of 3 settings go on; best: " in outcome.out
    assert "7 epochs trained, of 12 without halving" in outcome.out
    assert "swept: 3 jobs, 1 finished, 2 pruned" in outcome.out and "chosen: lr 0.03" in outcome.out
    assert [(row["status"], row["reason"], row["test/acc"] != "") for row in read_rows(cwd, "swept")] == [
        (status, "", status == "finished") for status in STATUSES
    ]
    rungs = read_json(folder / "halving.json")["rungs"]
    assert [(each["epochs"], sorted(each["kept"]), sorted(each["pruned"])) for each in rungs] == [
        (1, [1, 2], [0]),
        (2, [1], [2]),
    ]
    assert "3 of 3 by val/acc after epoch 1, of which 2 went on" in read_sweep_jobs(cwd, "swept")[0].status["message"]
    files = [job.folder / EVENT_FILE for job in read_sweep_jobs(cwd, "swept")]
    ends = [b"_hparams_/session_end_info" in file.read_bytes() for file in files]
    assert ends == [status == "finished" for status in STATUSES]
    text = Page(folder / "report.html").text
    assert "2 pruned" in text and "7 trained, of 12 without halving" in text
    assert "Pruned runs are left out" in text


def test_plain_sweep_finishes_pruned_jobs(whole: Path, halved: tuple[Path, Outcome], tmp_path: Path) -> None:
    """The same command without halving finishes the pruned jobs from their checkpoints."""
    shutil.copytree(halved[0], tmp_path, dirs_exist_ok=True)
    outcome = sweep(tmp_path, *SWEEP)
    assert "1 finished before" in outcome.out and "2 pruned before" in outcome.out
    assert [event.event for event in read_events(tmp_path) if event.number == 0] == ["1", "2", "2", "3", "4", "test"]
    assert_same_results(read_sweep_jobs(tmp_path, "swept"), read_sweep_jobs(whole, "swept"))


def test_killed_jobs_change_no_decision(halved: tuple[Path, Outcome], tmp_path: Path) -> None:
    """A job that is killed each time stops the sweep, which then comes to the same decisions and weights."""
    inject_faults(tmp_path, {1: "kill"})
    outcome = run("src.train", *SWEEP, *HALVING, cwd=tmp_path)
    assert outcome.error.startswith("error: the jobs cannot be compared after epoch 2 without outputs/sweeps/swept/1_")
    assert outcome.out.count("FAILED, killed: by signal SIGKILL") == 4
    sweep(tmp_path, *SWEEP, *HALVING)
    one, two = (each / "outputs" / "sweeps" / "swept" / "halving.json" for each in (tmp_path, halved[0]))
    assert read_json(one) == read_json(two)
    assert read_statuses(tmp_path, "swept") == STATUSES
    for job, other in zip(read_sweep_jobs(tmp_path, "swept"), read_sweep_jobs(halved[0], "swept"), strict=True):
        assert is_identical(read_weights(job.folder), read_weights(other.folder))


def test_stack_is_cut_to_survivors(halved: tuple[Path, Outcome], tmp_path: Path) -> None:
    """A stack goes on with the survivors alone, and the pruned jobs resume from the state that they left."""
    outcome = sweep(tmp_path, *STACKED, *HALVING)
    assert [line for line in outcome.out.splitlines() if "stack" in line] == [
        f"{count} jobs in 1 stack (1× {count}); figures are drawn on demand" for count in (3, 2, 1)
    ]
    assert read_statuses(tmp_path, "swept") == STATUSES and read_epochs(tmp_path) == EPOCHS
    job, other = read_sweep_jobs(tmp_path, "swept")[1], read_sweep_jobs(halved[0], "swept")[1]
    mine, others = read_weights(job.folder), read_weights(other.folder)
    assert all((mine[name] - others[name]).abs().max() < 1e-5 for name in others)
    states = tmp_path / "outputs" / "sweeps" / "swept" / "stacks"
    assert len(list(states.glob("*.ckpt"))) == 2
    sweep(tmp_path, *STACKED)
    assert read_epochs(tmp_path) == [4] * 3 and not list(states.glob("*.ckpt"))
    assert sum("resuming after epoch" in path.read_text() for path in states.glob("*.log")) == 4


def make_job(number: int, **settings: object) -> Job:
    known = {"trainer.max_epochs": 27, "trainer.check_val_every_n_epoch": 1, **settings}
    return Job(Path(str(number)), number, f"{number * 7919 % 1000:03}", [], {}, known)


def test_candidates_are_ranked_by_mean() -> None:
    """Settings are ranked by the mean over seeds, ties by number; those with failed jobs come last."""
    values = [[0.5, 0.7], [0.9, None], [0.6, 0.6], [None, None], [0.8, 0.8], [float("nan"), 0.1]]
    candidates = [Candidate([make_job(2 * n), make_job(2 * n + 1)], each) for n, each in enumerate(values)]
    assert [each.jobs[0].number for each in rank_candidates(candidates, "max")] == [8, 0, 4, 2, 6, 10]
    assert [each.jobs[0].number for each in rank_candidates(candidates, "min")] == [0, 4, 8, 2, 6, 10]
    assert [job.number for job in candidates[1].alive] == [2]
    jobs = [make_job(number, **{"optimizer.lr": number // 2, "seed": number % 2}) for number in range(4)]
    assert group_repeats(jobs[::-1]) == [jobs[:2], jobs[2:]]


DEFAULTS = {"rule": "halving", "min_epochs": 1, "factor": 3, "brackets": 1, "keep": None}


def test_rungs_are_planned() -> None:
    """Rungs are powers of the factor below the last epoch; one_epoch has a single one; brackets get their shares."""
    jobs = [make_job(number) for number in range(120)]
    assert plan_rungs(DEFAULTS, jobs) == [Rung(1, 3, None), Rung(3, 3, None), Rung(9, 3, None)]
    assert plan_rungs(DEFAULTS | {"min_epochs": 2, "factor": 4}, jobs) == [Rung(2, 4, None), Rung(8, 4, None)]
    (rung,) = plan_rungs(DEFAULTS | {"rule": "one_epoch", "keep": 5}, jobs)
    assert rung.epochs == 1 and [rung.count_kept(number) for number in (120, 3)] == [5, 3]
    assert [Rung(1, 3, None).count_kept(number) for number in (120, 40, 14, 1)] == [40, 14, 5, 1]
    dealt = deal_brackets([[job] for job in jobs], 3, 3, 4)
    assert [len(bracket) for bracket in dealt] == [66, 30, 14, 10]
    assert sorted(job.number for bracket in dealt for group in bracket for job in group) == list(range(120))


@pytest.mark.parametrize(
    ("given", "settings", "told"),
    [
        ({"factor": 1}, {}, "hydra.sweeper.factor=1 must be a whole number from 2 to 1,000"),
        ({"rule": "asha"}, {}, "hydra.sweeper.rule=asha must be halving or one_epoch"),
        ({"keep": 3}, {}, "hydra.sweeper.rule=halving: leave out hydra.sweeper.keep"),
        ({"rule": "one_epoch"}, {}, "hydra.sweeper.rule=one_epoch: give hydra.sweeper.keep=NUMBER"),
        ({"min_epochs": 27}, {}, "hydra.sweeper.min_epochs=27 must be below trainer.max_epochs=27"),
        ({"brackets": 5}, {}, "hydra.sweeper.brackets=5: with these epochs there are at most 4"),
        ({}, {"trainer.max_epochs": None}, "trainer.max_epochs=None: hydra/sweeper=halving needs the number of epochs"),
        ({}, {"trainer.max_epochs": -1}, "trainer.max_epochs=-1: hydra/sweeper=halving needs the number of epochs"),
        ({}, {"trainer.check_val_every_n_epoch": 3}, "trainer.check_val_every_n_epoch=3: nothing is measured after"),
    ],
)
def test_unusable_rungs_are_refused(given: dict[str, object], settings: dict[str, object], told: str) -> None:
    """Settings with which nothing would be compared, or nothing be stopped, are refused in one line."""
    with pytest.raises(InputError) as error:
        plan_rungs(DEFAULTS | given, [make_job(0, **settings), make_job(1, **settings)])
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "trainer.max_epochs=4,8",
            "hydra/sweeper=halving compares its jobs with each other, and they differ in",
        ),
        ("data.val_size=0", "hydra/sweeper=halving needs a validation set to compare its jobs by: data.val_size is 0"),
        ("hydra/launcher=basic", "hydra/sweeper=halving needs hydra/launcher=local, vectorized, ray or slurm"),
    ],
)
def test_incomparable_jobs_are_refused(given: str, told: str, tmp_path: Path) -> None:
    """A sweep whose jobs cannot be compared is refused in one line and leaves no folder."""
    common = ("-m", *BARE, "optimizer.lr=0.01,0.1", "name=refused", "hydra/sweeper=halving")
    assert run("src.train", *common, given, cwd=tmp_path).error.startswith(f"error: {told}")
    assert not (tmp_path / "outputs").exists()


def test_cluster_gets_limit_of_rung() -> None:
    """A job that is sent to a machine of a cluster has the limit of the rung with it."""
    found = Sweep.__new__(Sweep)
    found.configs, found.task_name, found.epoch_limit = {0: b""}, "main", 3
    assert make_remote_job(found, make_job(0), cores=1).spec.environment[EPOCH_LIMIT_VARIABLE] == "3"
    found.epoch_limit = None
    assert EPOCH_LIMIT_VARIABLE not in make_remote_job(found, make_job(0), cores=1).spec.environment
