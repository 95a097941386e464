"""What is read from the folders of a sweep's runs, and how the runs are called."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import InputError
from src.core.formatting import format_setting_value
from src.sweeps.store.runs import (
    Run,
    SweepReader,
    group_by_caption,
    read_runs,
    select_runs_with_metrics,
)
from tests.sweeps import made_job, made_run

DONE = {"test/acc": 0.5}


def make_swept_run(**swept: Any) -> Run:
    return made_run({key.replace("__", "."): value for key, value in swept.items()}, {})


# Reading


def test_runs_are_sorted_by_number(tmp_path: Path) -> None:
    """Runs are sorted by their numbers, not by their names."""
    for number in (10, 9, 0, 100):
        made_job(tmp_path, f"{number}_lr-{number}", f"optimizer.lr={number}", metrics=DONE)
    names = [run.folder.name for run in read_runs(tmp_path)]
    assert names == ["0_lr-0", "9_lr-9", "10_lr-10", "100_lr-100"]


def test_run_has_status_and_seed(tmp_path: Path) -> None:
    """A run has its status, reason, metrics and seed."""
    made_job(tmp_path, "0", "data=xor", metrics={**DONE, "seed": 12}, settings={"seed": None})
    made_job(tmp_path, "3_x", "data=xor", status="failed", reason="diverged", settings={"seed": 5})
    made_job(tmp_path, "4", "data=xor")
    first, second, third = read_runs(tmp_path)
    assert first == Run(tmp_path / "0", 0, {}, 12, "finished", None, None, {**DONE, "seed": 12}, "xor")
    assert second == Run(tmp_path / "3_x", 3, {}, 5, "failed", "diverged", None, {}, "xor")
    assert third == Run(tmp_path / "4", 4, {}, None, "waiting", None, None, {}, "xor")


@pytest.mark.parametrize(
    ("damage", "reason", "message"),
    [
        ({"metrics.json": "{"}, "metrics.json", "metrics.json is damaged: it is not JSON"),
        ({"status.json": '{"status": []}'}, "status.json", "status.json is damaged: status is a list and must be"),
        ({"status.json": "", "metrics.json": ""}, "status.json, metrics.json", "status.json is damaged: it is empty; "),
        ({"metrics.json": None}, "metrics.json", "metrics.json is missing, although the run has finished"),
        ({"status.json": None}, "status.json", "status.json is missing, although metrics.json exists"),
    ],
)
def test_run_with_damaged_file_is_damaged(
    damage: dict[str, str | None], reason: str, message: str, tmp_path: Path
) -> None:
    """A run with a damaged file has the status damaged and a message that explains it."""
    folder = made_job(tmp_path, "0", metrics=DONE)
    made_job(tmp_path, "1", metrics=DONE)
    for name, content in damage.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
    first, second = read_runs(tmp_path)
    assert (first.status, first.reason, first.metrics) == ("damaged", reason, {} if "metrics.json" in damage else DONE)
    assert (first.message or "").startswith(f"{folder}/{message}") and "\n" not in (first.message or "")
    assert (second.status, second.message) == ("finished", None)
    assert select_runs_with_metrics(tmp_path, [first, second]) == [second]


def test_moved_sweep_reads_the_same(tmp_path: Path) -> None:
    """A sweep that was moved is read with the same content."""
    for number in (0, 1):
        made_job(tmp_path / "old", str(number), f"optimizer.lr={number}", metrics=DONE)
    before = read_runs(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "a new, ‘place’")
    after = read_runs(tmp_path / "a new, ‘place’")
    assert [run._replace(folder=tmp_path / "old" / run.folder.name) for run in after] == before


def test_selected_runs_have_metrics(tmp_path: Path) -> None:
    """The selected runs have metrics and have not failed."""
    for number, status in enumerate(["finished", "running", "interrupted", "failed"]):
        made_job(tmp_path, str(number), f"optimizer.lr={number}", metrics=DONE, status=status)
    made_job(tmp_path, "4", "optimizer.lr=4", status="running")
    assert [(run.number, run.label) for run in select_runs_with_metrics(tmp_path, read_runs(tmp_path))] == [
        (0, "lr 0"),
        (1, "lr 1"),
        (2, "lr 2"),
    ]


def test_missing_jobs_or_metrics_raise_error(tmp_path: Path) -> None:
    """A folder without jobs or without metrics is reported as an error."""
    with pytest.raises(InputError, match=r"nowhere is not a sweep's folder$"):
        read_runs(tmp_path / "nowhere")
    made_job(tmp_path, "0")
    with pytest.raises(InputError, match=r"it contains no runs with metrics$"):
        select_runs_with_metrics(tmp_path, read_runs(tmp_path))


def test_reader_caches_finished_jobs(tmp_path: Path) -> None:
    """The reader follows a running sweep and reads finished jobs only once."""
    made_job(tmp_path, "0", "optimizer.lr=1", metrics=DONE)
    running = made_job(tmp_path, "1", "optimizer.lr=2", metrics={}, status="running")
    reader = SweepReader(tmp_path)
    before = reader.read()
    assert before == read_runs(tmp_path)
    (tmp_path / "0" / "metrics.json").write_text('{"test/acc": 0.0}')
    assert reader.read() == before
    shutil.copy(tmp_path / "0" / "status.json", running)
    (running / "metrics.json").write_text('{"test/acc": 1.0}')
    made_job(tmp_path, "2", "optimizer.lr=2", "seed=3", metrics=DONE, status="running")
    first, second, third = reader.read()
    assert (first.metrics, second.metrics, third.status) == (DONE, {"test/acc": 1.0}, "running")
    assert [run.swept for run in (first, second, third)] == [run.swept for run in read_runs(tmp_path)]
    (tmp_path / "0" / "status.json").write_text('{"status": "waiting"}')
    assert reader.read() == read_runs(tmp_path)


@pytest.mark.parametrize("content", [b'{"number": 0, "ident', b"\xff\xfe\x00", b"[0]", b'{"number": 0}'])
def test_damaged_job_file_is_reported(tmp_path: Path, content: bytes) -> None:
    """A damaged job.json is reported with its path."""
    path = made_job(tmp_path, "0", metrics=DONE) / "job.json"
    path.write_bytes(content)
    made_job(tmp_path, "1_a", "model.a=1", "seed=0", metrics=DONE)
    made_job(tmp_path, "2_b", "model.a=2", "seed=0", metrics=DONE)
    damaged, first, second = read_runs(tmp_path)
    assert (damaged.number, damaged.status, damaged.reason, damaged.is_known) == (0, "damaged", "job.json", False)
    assert (damaged.message or "").startswith(f"{path} is damaged: ") and "\n" not in (damaged.message or "")
    assert (damaged.swept, first.swept, second.swept) == ({}, {"model.a": 1}, {"model.a": 2})


def test_missing_or_duplicate_job_file_is_reported(tmp_path: Path) -> None:
    """A job.json that is missing or has the number of another job is reported."""
    for name in ("0_a", "1_b", "2_c"):
        made_job(tmp_path, name, metrics=DONE)
    shutil.copy(tmp_path / "1_b" / "job.json", tmp_path / "0_a" / "job.json")
    (tmp_path / "2_c" / "job.json").unlink()
    (tmp_path / "3").mkdir()  # of a start that was stopped as it made it
    (tmp_path / "3" / "status.json").write_text('{"status": "waiting"}')
    assert [(run.number, run.message) for run in read_runs(tmp_path)] == [
        (0, f"{tmp_path}/0_a/job.json is damaged: its number 1 is already used by {tmp_path}/1_b"),
        (1, None),
        (2, f"{tmp_path}/2_c/job.json is missing"),
    ]


# What was swept


def read_swept_settings(tmp_path: Path) -> list[dict[str, Any]]:
    return [run.swept for run in read_runs(tmp_path)]


def test_only_varying_settings_are_swept(tmp_path: Path) -> None:
    """A run's swept settings are those that vary, with their types."""
    for number, size in enumerate(["[2,3]", "4"]):
        made_job(tmp_path, str(number), "name=x", f"++model.hidden_size={size}", f"seed={number}", metrics=DONE)
    assert read_swept_settings(tmp_path) == [
        {"model.hidden_size": [2, 3], "seed": 0},
        {"model.hidden_size": 4, "seed": 1},
    ]


def test_single_run_has_no_swept_settings(tmp_path: Path) -> None:
    made_job(tmp_path, "0", "optimizer.lr=1", "~callbacks.samples", metrics=DONE)
    (run,) = read_runs(tmp_path)
    assert (run.swept, run.label, run.title) == ({}, "all runs", "0")


def test_default_value_counts_as_swept(tmp_path: Path) -> None:
    """A job without an override for a swept setting is listed with its default value."""
    made_job(tmp_path, "0", settings={"model.dropout": 0.0})
    made_job(tmp_path, "1", "model.dropout=0.5")
    assert read_swept_settings(tmp_path) == [{"model.dropout": 0.0}, {"model.dropout": 0.5}]


def test_partial_setting_is_listed_where_present(tmp_path: Path) -> None:
    """A setting that some jobs do not have is listed for the others only."""
    made_job(tmp_path, "0")
    made_job(tmp_path, "1", "+model.extra=1")
    assert read_swept_settings(tmp_path) == [{}, {"model.extra": 1}]


def test_equivalent_spellings_are_one_value(tmp_path: Path) -> None:
    """A value that was typed in two ways is one value."""
    for number, rate in enumerate(["1e-3", "0.001", "1e-3"]):
        made_job(tmp_path, str(number), f"optimizer.lr={rate}", f"seed={number}")
    assert read_swept_settings(tmp_path) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_interpolated_settings_are_not_swept(tmp_path: Path) -> None:
    """A setting that was typed the same for all jobs is not swept, even if it refers to one that is."""
    for number in (1, 2):
        typed = (f"optimizer.lr={number}", "optimizer.weight_decay=${optimizer.lr}")
        made_job(tmp_path, str(number), *typed, settings={"optimizer.weight_decay": number})
    assert read_swept_settings(tmp_path) == [{"optimizer.lr": 1}, {"optimizer.lr": 2}]


def test_choices_are_swept_but_deletions_not(tmp_path: Path) -> None:
    """Choices count as swept, but deletions and Hydra's own settings do not."""
    made_job(tmp_path, "0", "model=mlp", "hydra.verbose=true")
    made_job(tmp_path, "1", "model=cnn", "hydra.verbose=false")
    path = tmp_path / "1" / "job.json"
    notes = json.loads(path.read_text())
    path.write_text(json.dumps({**notes, "overrides": [*notes["overrides"], "~callbacks.samples=x", "~scheduler"]}))
    assert read_swept_settings(tmp_path) == [{"model": "mlp"}, {"model": "cnn"}]


def test_nested_setting_is_shown_as_typed(tmp_path: Path) -> None:
    """A setting that contains other settings is shown as it was typed."""
    for number in (1, 2):
        path = made_job(tmp_path, str(number), f"+callbacks.stop={{epoch:{number}}}") / "job.json"
        notes = json.loads(path.read_text())
        path.write_text(json.dumps({**notes, "settings": {"callbacks.stop.epoch": number}}))
    assert read_swept_settings(tmp_path) == [{"callbacks.stop": "{epoch:1}"}, {"callbacks.stop": "{epoch:2}"}]


# History


def test_history_contains_metrics_per_epoch(tmp_path: Path) -> None:
    """The history contains what was measured in each epoch, NaN included."""
    rows = [{"epoch": 1, "train/loss": 2.0}, {"epoch": 2, "train/loss": float("nan"), "val/acc": 0.5}]
    made_job(tmp_path, "0", metrics=DONE, history=rows)
    first, second = read_runs(tmp_path)[0].history
    assert first == {"epoch": 1, "train/loss": 2.0}
    assert second["val/acc"] == 0.5 and second["train/loss"] != second["train/loss"]


# Names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.001, "0.001"),
        (1e-05, "1e-05"),
        (1.0, "1"),
        (0.12345678, "0.12345678"),  # six digits would not tell it from its neighbours
        (100, "100"),
        ([4, 0.5, [None]], "[4,0.5,[null]]"),
        ([], "[]"),
        (True, "true"),
        (None, "null"),
        ("relu, “leaky”", "relu, “leaky”"),
    ],
)
def test_values_are_formatted_as_typed(value: Any, words: str) -> None:
    assert format_setting_value(value) == words


@pytest.mark.parametrize(
    ("run", "label", "title"),
    [
        (make_swept_run(model__hidden_size=3, seed=7), "hidden size 3", "hidden size 3, seed 7"),
        (make_swept_run(model__hidden_size=[4, 4], model__dropout=0.0), *2 * ["hidden size [4,4], dropout 0"]),
        (make_swept_run(experiment="gates", data__gate="and"), "gates, gate and", "gates, gate and"),
        (make_swept_run(experiment=None, model__batch_norm=True), *2 * ["experiment null, batch norm true"]),
        (
            make_swept_run(model="mlp", data="mnist", optimizer="sgd"),
            "mlp, mnist, optimizer sgd",
            "mlp, mnist, optimizer sgd",
        ),
        (make_swept_run(data__fold=1, data__split_seed=2), "fold 1", "fold 1, split seed 2"),
        (make_swept_run(seed=7), "all runs", "seed 7"),
        (make_swept_run(), "all runs", "7_some"),
    ],
)
def test_label_omits_seeds_title_has_them(run: Run, label: str, title: str) -> None:
    """A run's label lists its swept settings; its title also lists the seeds."""
    assert (run.label, run.title) == (label, title)


@pytest.mark.parametrize(
    ("run", "caption", "full"),
    [
        (make_swept_run(model__hidden_size=3, seed=7), "hidden size 3", "hidden size 3, seed 7"),
        (make_swept_run(experiment="overfit_batch_norm"), *2 * ["overfit batch norm"]),
        (make_swept_run(optimizer__lr=0.1, model__batch_norm=True), *2 * ["learning rate 0.1, batch norm"]),
        (make_swept_run(model__batch_norm=False, model__weights=None), *2 * ["no batch norm, weights none"]),
        (
            make_swept_run(model__loss="cross_entropy", model__hidden_size=[]),
            *2 * ["loss cross entropy, hidden size none"],
        ),
        (make_swept_run(model__weights="a_b/c_d.ckpt"), *2 * ["weights a_b/c_d.ckpt"]),
        (make_swept_run(), "all runs", "7 some"),
    ],
)
def test_captions_describe_runs_in_words(run: Run, caption: str, full: str) -> None:
    assert (run.caption, run.full_caption) == (caption, full)


def test_runs_group_by_caption() -> None:
    """Runs that differ only in their seeds are grouped, in their order."""
    runs = [make_swept_run(optimizer__lr=rate, seed=seed) for rate in (1, 0.1) for seed in (0, 1)]
    assert group_by_caption(runs) == {"learning rate 1": runs[:2], "learning rate 0.1": runs[2:]}
    only_seeds = [make_swept_run(seed=0), make_swept_run(seed=1)]
    assert group_by_caption(only_seeds) == {"all runs": only_seeds}
