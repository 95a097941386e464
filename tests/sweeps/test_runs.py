"""What is read from the folders of a sweep's runs, and how the runs are called."""

from pathlib import Path

import pytest

from src.errors import InputError
from src.sweeps.runs import Run, folded, read_history, read_runs
from tests.sweeps import made_job

DONE = {"test/acc": 0.5}


def run_of(**swept: str) -> Run:
    return Run(Path("sweep/7_some"), {key.replace("__", "."): value for key, value in swept.items()}, {})


# Reading


def test_runs_come_in_the_order_of_their_numbers_not_of_their_names(tmp_path: Path) -> None:
    for number in (10, 9, 0, 100):
        made_job(tmp_path, f"{number}_lr-{number}", f"optimizer.lr={number}", metrics=DONE)
    made_job(tmp_path, "copied", "optimizer.lr=1", metrics=DONE)
    names = [run.folder.name for run in read_runs(tmp_path)]
    assert names == ["0_lr-0", "9_lr-9", "10_lr-10", "100_lr-100", "copied"]


def test_only_what_varies_is_told_of_a_run(tmp_path: Path) -> None:
    for number, size in enumerate(["[2,3]", "4"]):
        made_job(tmp_path, str(number), "name=x", f"++model.hidden_size={size}", f"seed={number}", metrics=DONE)
    assert [run.swept for run in read_runs(tmp_path)] == [
        {"model.hidden_size": "[2,3]", "seed": "0"},
        {"model.hidden_size": "4", "seed": "1"},
    ]


def test_runs_without_metrics_are_left_out_but_still_tell_what_varies(tmp_path: Path) -> None:
    made_job(tmp_path, "0", "optimizer.lr=1", metrics=DONE)
    made_job(tmp_path, "1", "optimizer.lr=2")
    made_job(tmp_path, "2", "optimizer.lr=3").joinpath("metrics.json").write_text('{"test/acc": 0.')
    (tmp_path / "figures").mkdir()
    assert [(run.folder.name, run.label, run.metrics) for run in read_runs(tmp_path)] == [("0", "lr 1", DONE)]


def test_a_sweep_of_one_run_has_nothing_that_varies(tmp_path: Path) -> None:
    made_job(tmp_path, "0", "optimizer.lr=1", "~callbacks.samples", metrics=DONE)
    (run,) = read_runs(tmp_path)
    assert (run.swept, run.label, run.title) == ({}, "all runs", "0")


def test_a_setting_that_only_some_jobs_were_given_is_told_of_those(tmp_path: Path) -> None:
    made_job(tmp_path, "0", metrics=DONE)
    made_job(tmp_path, "1", "model.dropout=0.5", metrics=DONE)
    assert [run.swept for run in read_runs(tmp_path)] == [{}, {"model.dropout": "0.5"}]


def test_references_among_the_settings_stay_as_they_were_typed(tmp_path: Path) -> None:
    for number in (0, 1):
        made_job(tmp_path, str(number), "optimizer.weight_decay=${optimizer.lr}", f"seed={number}", metrics=DONE)
    assert [run.swept for run in read_runs(tmp_path)] == [{"seed": "0"}, {"seed": "1"}]


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no runs with metrics in it$"):
        read_runs(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: there are no runs"):
        read_runs(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"- 'a=1", b"\xff\xfe\x00", b"[a=1"])
def test_damaged_settings_of_a_job_are_told_with_their_path(tmp_path: Path, content: bytes) -> None:
    path = made_job(tmp_path, "0", metrics=DONE) / ".hydra" / "overrides.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_runs(tmp_path)
    assert str(error.value).startswith(f"{path} is damaged: ") and "\n" not in str(error.value)


# History


def test_the_history_has_what_was_measured_in_each_epoch(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "train/loss": 2.0}, {"epoch": 2, "train/loss": float("nan"), "val/acc": 0.5}]
    made_job(tmp_path, "0", metrics=DONE, history=rows)
    first, second = read_runs(tmp_path)[0].history
    assert first == {"epoch": 1, "train/loss": 2.0}
    assert second["val/acc"] == 0.5 and second["train/loss"] != second["train/loss"]


def test_a_run_without_a_history_has_no_epochs(tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.csv") == []


@pytest.mark.parametrize("content", [b"epoch,a\n1,half", b"epoch,a\n1,2,3", b"epoch,a\n1,\xff"])
def test_a_damaged_history_is_told_with_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"history\.csv is damaged: "):
        read_history(tmp_path / "history.csv")


# Names


@pytest.mark.parametrize(
    ("run", "label", "title"),
    [
        (run_of(model__hidden_size="3", seed="7"), "hidden size 3", "hidden size 3, seed 7"),
        (run_of(model__hidden_size="3", model__dropout="0"), "hidden size 3, dropout 0", "hidden size 3, dropout 0"),
        (run_of(experiment="gates", data__gate="and"), "gates, gate and", "gates, gate and"),
        (run_of(model="mlp", data="mnist", optimizer="sgd"), "mlp, mnist, optimizer sgd", "mlp, mnist, optimizer sgd"),
        (run_of(data__fold="1", data__split_seed="2"), "fold 1", "fold 1, split seed 2"),
        (run_of(seed="7"), "all runs", "seed 7"),
        (run_of(), "all runs", "7_some"),
    ],
)
def test_a_runs_label_says_what_was_swept_and_its_title_the_seeds_too(run: Run, label: str, title: str) -> None:
    assert (run.label, run.title) == (label, title)


def test_runs_that_differ_in_their_seeds_alone_come_together_in_their_order() -> None:
    runs = [run_of(optimizer__lr=rate, seed=seed) for rate in ("1", "0.1") for seed in ("0", "1")]
    assert folded(runs) == {"lr 1": runs[:2], "lr 0.1": runs[2:]}
    only_seeds = [run_of(seed="0"), run_of(seed="1")]
    assert folded(only_seeds) == {"all runs": only_seeds}
