"""What a sweep comes to: the file with a row per job, and the table of the best."""

import csv
import io
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from src.core.errors import InputError
from src.sweeps.store.aggregate import format_mean_std
from src.sweeps.store.leaderboard import print_leaderboards
from src.sweeps.store.results import write_results
from tests.sweeps import made_job

ESCAPE = "\x1b["


def accuracy(value: float | None, test: float = 0.5, **more: Any) -> dict[str, Any]:
    """The metrics of a run that is chosen by its validation accuracy."""
    return {"val/acc": value, "test/acc": test, "monitor": "val/acc", "mode": "max", **more}


def loss(value: float | None, test: float = 0.5) -> dict[str, Any]:
    """The metrics of a run that is chosen by its validation loss."""
    return {"val/loss": value, "test/loss": test, "monitor": "val/loss", "mode": "min"}


def make_jobs(sweep: Path, jobs: list[tuple[str, dict[str, Any] | str]]) -> Path:
    """A sweep's jobs, each with its overrides in a line, and its metrics or why it has none."""
    for number, (overrides, outcome) in enumerate(jobs):
        told: Any = {"status": outcome} if isinstance(outcome, str) else {"metrics": outcome}
        made_job(sweep, f"{number}_x", *overrides.split(), **told)
    return sweep


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def render_leaderboards(folder: Path, **settings: Any) -> list[str]:
    """What the leaderboard tells, line by line without the blanks at their ends; as into a file if not told else."""
    stream = io.StringIO()
    print_leaderboards(folder, Console(file=stream, highlight=False, **settings))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def table(lines: list[str]) -> list[list[str]]:
    """The cells of the first table among lines, its heading first; cells lie two blanks apart."""
    start = next(number for number, line in enumerate(lines) if line.startswith("───"))
    rows = [lines[start - 1]]
    for line in lines[start + 1 :]:
        if not line or line.startswith("…") or "(n = " in line or "the best" in line.lower():
            break
        rows.append(line)
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


# results.csv


def test_file_has_one_row_per_job(tmp_path: Path) -> None:
    """The file has a row per job with its settings, metrics and folder."""
    metrics = {
        "train/loss": 0.25,
        **accuracy(1.0, test=0.75, seed=0, best=1.0, best_epoch=3, epochs=5, seconds=2.5, parameters=9),
        "val/loss": None,
        "test/acc_per_class": {"0": 1.0},
    }
    made_job(tmp_path, "0_lr-0.001", "optimizer.lr=1e-3", "data=xor", "seed=0", metrics=metrics)
    made_job(tmp_path, "1_lr-1e30", "optimizer.lr=1e30", "data=xor", "seed=1", status="failed", reason="diverged")
    made_job(
        tmp_path, "2_lr-0.01", "optimizer.lr=0.01", "data=gate", "seed=1", metrics={"val/acc": 0.5}, status="running"
    )
    made_job(tmp_path, "10", "optimizer.lr=1", "data=xor", "seed=2")
    assert write_results(tmp_path) == tmp_path / "results.csv"
    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "number,status,reason,optimizer.lr,data,seed,val/acc,val/loss,test/acc,train/loss,best_epoch,epochs,seconds,folder",
        "0,finished,,0.001,xor,0,1.0,,0.75,0.25,3,5,2.5,0_lr-0.001",
        "1,failed,diverged,1e+30,xor,1,,,,,,,,1_lr-1e30",
        "2,running,,0.01,gate,1,0.5,,,,,,,2_lr-0.01",
        "10,waiting,,1,xor,2,,,,,,,,10",
    ]


def test_special_characters_survive_csv(tmp_path: Path) -> None:
    """Values with special characters are read back unchanged."""
    values: list[Any] = ['a,b "c"\nd', "größe; ‘π’", [4, [0.5, None]], None, True, "", 0.1]
    for number, value in enumerate(values):
        made_job(tmp_path, str(number), f"+model.x={number}", settings={"model.x": value})
    write_results(tmp_path)
    read = [row["model.x"] for row in read_table(tmp_path)]
    assert read == ['a,b "c"\nd', "größe; ‘π’", "[4,[0.5,null]]", "null", "true", "", "0.1"]


def test_random_seed_is_recorded(tmp_path: Path) -> None:
    """If no seed was given, the file contains the one that was drawn at random."""
    made_job(tmp_path, "0", metrics={"val/acc": 1.0, "seed": 123}, settings={"seed": None})
    made_job(tmp_path, "1", settings={"seed": 7})
    made_job(tmp_path, "2", settings={"seed": None})
    write_results(tmp_path)
    assert [row["seed"] for row in read_table(tmp_path)] == ["123", "7", ""]


def test_file_is_updated_after_moving(tmp_path: Path) -> None:
    """The file is updated with the sweep, also after the sweep was moved."""
    folder = make_jobs(tmp_path / "old", [("seed=0", accuracy(0.5)), ("seed=1", "running")])
    write_results(folder)
    shutil.move(folder, tmp_path / "new")
    make_jobs(tmp_path / "more", [("seed=0", accuracy(0.5)), ("seed=1", accuracy(1.0))])
    shutil.copytree(tmp_path / "more" / "1_x", tmp_path / "new" / "1_x", dirs_exist_ok=True)
    write_results(tmp_path / "new")
    rows = [(row["status"], row["val/acc"], row["folder"]) for row in read_table(tmp_path / "new")]
    assert rows == [("finished", "0.5", "0_x"), ("finished", "1.0", "1_x")]


def test_concurrent_writes_keep_file_intact(tmp_path: Path) -> None:
    make_jobs(tmp_path, [(f"seed={seed}", accuracy(0.5)) for seed in range(50)])
    errors: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(5):
                write_results(tmp_path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [row["number"] for row in read_table(tmp_path)] == [str(number) for number in range(50)]


def test_folder_without_jobs_raises_error(tmp_path: Path) -> None:
    """A folder without jobs is reported, and nothing is created."""
    with pytest.raises(InputError, match=r"nowhere is not a sweep's folder$"):
        write_results(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match=r"it contains no jobs$"):
        write_results(tmp_path)
    with pytest.raises(InputError, match=r"it contains no jobs$"):
        render_leaderboards(tmp_path)


def test_damaged_jobs_have_own_status(tmp_path: Path) -> None:
    """Damaged jobs have a status of their own, and the others are listed as usual."""
    make_jobs(tmp_path, [(f"optimizer.lr={n // 2} seed={n % 2}", accuracy(n / 10)) for n in range(6)])
    (tmp_path / "1_x" / "job.json").write_text("{")
    (tmp_path / "2_x" / "metrics.json").write_text('{"val/acc": "high"}')
    (tmp_path / "3_x" / "status.json").write_text("")
    write_results(tmp_path)
    rows = [[row[key] for key in ("number", "status", "reason", "val/acc")] for row in read_table(tmp_path)]
    assert rows == [
        ["0", "finished", "", "0.0"],
        ["1", "damaged", "job.json", "0.1"],
        ["2", "damaged", "metrics.json", ""],
        ["3", "damaged", "status.json", "0.3"],
        ["4", "finished", "", "0.4"],
        ["5", "finished", "", "0.5"],
    ]
    lines = render_leaderboards(tmp_path)
    assert lines[1].endswith(": 6 jobs, 3 finished, 3 damaged")
    assert table(lines) == [
        ["#", "lr", "val/acc", "95% interval (t)", "n", "damaged"],
        ["=1", "2", "45.00 ± 7.07%", "0 to 100%", "2"],
        ["=1", "0", "0.00%", "1"],
        ["3", "1", "–", "0", "2"],
    ]
    assert lines[-2].startswith("best so far: lr 2: ")


def test_unmeasured_monitor_chooses_nothing(tmp_path: Path) -> None:
    """If no run has measured the monitored metric, the table says so and nothing is chosen."""
    early = {"train/loss": 0.5, "test/acc": 0.5, "monitor": "val/acc", "mode": "max", "best": None}
    lines = render_leaderboards(make_jobs(tmp_path, [(f"optimizer.lr={n // 2} seed={n % 2}", early) for n in range(4)]))
    assert lines[3] == "no run has measured val/acc: there is nothing to rank by"
    assert table(lines) == [["lr", "val/acc", "n"], ["0", "–", "2"], ["1", "–", "2"]]
    assert not any("test/" in line or "src.eval" in line for line in lines)


def test_runs_without_monitor_are_counted(tmp_path: Path) -> None:
    """Runs that have not measured the monitored metric are counted."""
    early = {"monitor": "val/acc", "mode": "max", "best": None}
    jobs = [("optimizer.lr=1 seed=0", accuracy(0.5)), ("optimizer.lr=1 seed=1", early), ("optimizer.lr=2", early)]
    lines = render_leaderboards(make_jobs(tmp_path, jobs))
    assert lines[3].endswith("; not measured by 2 finished runs")
    assert table(lines)[1:] == [["1", "50.00%", "2"], ["2", "–", "1"]]


def test_overflowing_mean_is_shown(tmp_path: Path) -> None:
    """Numbers whose sum overflows are shown nevertheless."""
    make_jobs(tmp_path, [(f"optimizer.lr=1 seed={n}", loss(value)) for n, value in enumerate((1.5e308, 1e308))])
    assert table(render_leaderboards(tmp_path))[1:] == [["inf ± 3.5e+307", "2"]]


# The table: what counts


def test_seeds_are_averaged_and_ranked(tmp_path: Path) -> None:
    """Seeds are combined into mean and standard deviation; the best mean is first."""
    by_rate = {"0.1": [0.50, 0.70], "0.01": [0.80, 0.90, 0.97], "1": [0.85]}
    make_jobs(
        tmp_path,
        [
            (f"optimizer.lr={rate} seed={seed}", accuracy(v))
            for rate, row in by_rate.items()
            for seed, v in enumerate(row)
        ],
    )
    lines = render_leaderboards(tmp_path)
    # of 80, 90, 97: mean 89, deviations −9, 1, 8, √(146 / 2) = 8.544; of 50, 70: √200 = 14.142
    assert table(lines) == [
        ["#", "lr", "val/acc", "95% interval (t)", "n"],
        ["=1", "0.01", "89.00 ± 8.54%", "68 to 100%", "3"],  # 4.303 · 8.544 / √3 = 21.2
        ["=1", "1", "85.00%", "1"],
        ["=1", "0.1", "60.00 ± 14.14%", "0 to 100%", "2"],
    ]
    assert lines[1] == f"{tmp_path.name}: 6 jobs, 6 finished"
    assert lines[3] == "best first by val/acc, higher is better; mean ± standard deviation of n runs"


def test_lowest_loss_is_first(tmp_path: Path) -> None:
    """The lowest value is first if lower is better."""
    make_jobs(tmp_path, [(f"optimizer.lr={lr}", loss(v)) for lr, v in ((1, 0.5), (2, 0.012344), (3, 1e-05), (4, 12.0))])
    lines = render_leaderboards(tmp_path)
    assert table(lines)[1:] == [["3", "1e-05", "1"], ["2", "0.01234", "1"], ["1", "0.5", "1"], ["4", "12", "1"]]
    assert lines[3] == "best first by val/loss, lower is better"


def test_ties_prefer_more_runs_then_order(tmp_path: Path) -> None:
    """In a tie the row with more runs is first, then the one that came first."""
    jobs = [("optimizer.lr=1", accuracy(1.0)), ("optimizer.lr=2", accuracy(1.0))]
    jobs += [(f"optimizer.lr=3 seed={seed}", accuracy(1.0)) for seed in (0, 1)]
    assert [row[0] for row in table(render_leaderboards(make_jobs(tmp_path, jobs)))[1:]] == ["3", "1", "2"]


def test_folds_are_averaged_like_seeds(tmp_path: Path) -> None:
    """The folds of a cross-validation are combined like seeds."""
    folds = [(1, 0, 0.9), (1, 1, 0.7), (2, 0, 0.95), (2, 1, 0.5)]
    make_jobs(tmp_path, [(f"model.hidden_size={size} data.fold={fold}", accuracy(v)) for size, fold, v in folds])
    assert table(render_leaderboards(tmp_path))[1:] == [
        ["=1", "1", "80.00 ± 14.14%", "0 to 100%", "2"],
        ["=1", "2", "72.50 ± 31.82%", "0 to 100%", "2"],
    ]


def test_incomplete_settings_are_marked(tmp_path: Path) -> None:
    """Only finished runs count, and settings with other runs are marked."""
    jobs: list[tuple[str, Any]] = [("optimizer.lr=1 seed=0", "failed"), ("optimizer.lr=1 seed=1", "failed")]
    jobs += [("optimizer.lr=2 seed=0", accuracy(0.5)), ("optimizer.lr=2 seed=1", "failed")]
    jobs += [("optimizer.lr=3 seed=0", accuracy(0.25)), ("optimizer.lr=3 seed=1", accuracy(0.75))]
    jobs += [("optimizer.lr=4 seed=0", "running"), ("optimizer.lr=4 seed=1", accuracy(0.4))]
    make_jobs(tmp_path, jobs)
    made_job(tmp_path, "8", "optimizer.lr=2", "seed=2", metrics=accuracy(1.0), status="failed")  # diverged later on
    made_job(tmp_path, "9", "optimizer.lr=4", "seed=2", metrics=accuracy(1.0), status="interrupted")
    lines = render_leaderboards(tmp_path)
    assert table(lines) == [
        ["#", "lr", "val/acc", "95% interval (t)", "n", "failed", "left"],
        ["=1", "3", "50.00 ± 35.36%", "0 to 100%", "2"],
        ["=1", "2", "50.00%", "1", "2"],
        ["=1", "4", "40.00%", "1", "2"],
        ["4", "1", "–", "0", "2"],
    ]
    assert lines[1].endswith(": 10 jobs, 4 finished, 4 failed, 1 interrupted, 1 running")
    assert lines[-2].startswith("best so far: lr 3: ")


def test_non_finite_results_come_last(tmp_path: Path) -> None:
    jobs = [("optimizer.lr=1 seed=0", loss(None)), ("optimizer.lr=1 seed=1", loss(0.1)), ("optimizer.lr=2", loss(9.0))]
    lines = render_leaderboards(make_jobs(tmp_path, jobs))
    assert table(lines)[1:] == [["2", "9", "1"], ["1", "nan", "2"]]
    assert any(line.startswith("chosen: lr 2") for line in lines)


def test_no_finite_result_chooses_nothing(tmp_path: Path) -> None:
    """If no result is finite, nothing is chosen."""
    lines = render_leaderboards(make_jobs(tmp_path, [("optimizer.lr=1", loss(None)), ("optimizer.lr=2", "failed")]))
    assert table(lines)[1:] == [["1", "nan", "1"], ["2", "–", "0", "1"]]
    assert not any("src.eval" in line or "test/" in line for line in lines)


def test_nearly_equal_values_stay_separate(tmp_path: Path) -> None:
    """Values that differ only in a late digit are two settings."""
    make_jobs(tmp_path, [(f"optimizer.lr={lr}", accuracy(0.5)) for lr in ("0.12345671", "0.12345672")])
    assert [row[0] for row in table(render_leaderboards(tmp_path))[1:]] == ["0.12345671", "0.12345672"]


def test_each_data_and_monitor_has_table(tmp_path: Path) -> None:
    """Jobs on other data or with another monitor have a separate table."""
    jobs: list[tuple[str, Any]] = [("data=mnist model=mlp", accuracy(0.9)), ("data=cifar10 model=mlp", accuracy(0.5))]
    jobs += [("data=cubic model=mlp", loss(0.1)), ("data=mnist model=cnn", accuracy(0.99))]
    jobs += [("data=cifar10 model=cnn", "failed"), ("data=cubic model=cnn", loss(0.2))]
    lines = render_leaderboards(make_jobs(tmp_path, jobs))
    starts = [number for number, line in enumerate(lines) if "better" in line] + [len(lines)]
    assert [lines[start].split(",")[0] for start in starts[:-1]] == [
        "mnist: best first by val/acc",
        "cifar10: best first by val/acc",
        "cubic: best first by val/loss",
    ]
    tables = [table(lines[start:]) for start in starts[:-1]]
    assert tables == [
        [["model", "val/acc", "n"], ["cnn", "99.00%", "1"], ["mlp", "90.00%", "1"]],
        [["model", "val/acc", "n", "failed"], ["mlp", "50.00%", "1"], ["cnn", "–", "0", "1"]],
        [["model", "val/loss", "n"], ["mlp", "0.1", "1"], ["cnn", "0.2", "1"]],
    ]
    assert [line.split(": test")[0] for line in lines if line.startswith("chosen")] == [
        "chosen: mnist, cnn",
        "chosen: cifar10, mlp",
        "chosen: cubic, mlp",
    ]


# The table: the test of the chosen row only


def test_test_metrics_shown_only_for_chosen(tmp_path: Path) -> None:
    """The test metrics are shown for the chosen setting only."""
    jobs = [(f"optimizer.lr=1 seed={s}", accuracy(0.5, test)) for s, test in enumerate([0.1111, 0.2222])]
    jobs += [
        (f"optimizer.lr=2 seed={s}", accuracy(0.6, test, **{"test/loss": 2.0 * test}))
        for s, test in enumerate([0.4, 0.5])
    ]
    lines = render_leaderboards(make_jobs(tmp_path / "my sweep", jobs))
    # 45 ± √50 = 7.07%; 0.9 ± √0.02 = 0.1414
    assert lines[-2] == "chosen: lr 2: test/acc 45.00 ± 7.07%, test/loss 0.9 ± 0.14 (n = 2)"
    folder = tmp_path / "my sweep" / "2_x"
    assert lines[-1] == f"  evaluate it:  python -m src.eval run='{folder}'  (its other runs: 3)"
    assert sum("test/" in line for line in lines) == 1
    assert not any(digits in line for line in lines for digits in ("11.11", "22.22", "16.6"))


def test_chosen_folder_is_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the chosen run is printed as one would type it."""
    make_jobs(tmp_path / "outputs" / "s", [(f"seed={seed}", accuracy(1.0)) for seed in range(9)])
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "outputs" / "s", Path("outputs/s")):
        assert (
            render_leaderboards(folder)[-1]
            == "  evaluate it:  python -m src.eval run=outputs/s/0_x  (one of its 9 runs)"
        )


def test_a_single_setting_needs_no_choosing(tmp_path: Path) -> None:
    metrics = {"test/acc": 0.5, "monitor": None, "mode": None}
    lines = render_leaderboards(make_jobs(tmp_path, [("seed=0", metrics), ("seed=1", {**metrics, "test/acc": 0.6})]))
    assert lines[-2] == "all runs: test/acc 55.00 ± 7.07% (n = 2)"


def test_without_validation_nothing_is_chosen(tmp_path: Path) -> None:
    """Without a validation set, none of several settings is chosen."""
    metrics = {"test/acc": 0.5, "monitor": None, "mode": None}
    lines = render_leaderboards(make_jobs(tmp_path, [("optimizer.lr=1", metrics), ("optimizer.lr=2", metrics)]))
    assert lines[3] == "no validation set to rank by"
    assert table(lines) == [["lr", "n"], ["1", "1"], ["2", "1"]]
    assert not any("test/" in line or "src.eval" in line for line in lines)


def test_sweep_without_finished_run_is_reported(tmp_path: Path) -> None:
    """If no run has finished, the table says so."""
    lines = render_leaderboards(make_jobs(tmp_path, [("optimizer.lr=1", "failed"), ("optimizer.lr=2", "running")]))
    assert lines[3] == "no run has finished"
    assert table(lines) == [["lr", "n", "failed", "left"], ["1", "0", "1"], ["2", "0", "1"]]
    assert not any("src.eval" in line for line in lines)


def test_untested_run_is_reported(tmp_path: Path) -> None:
    """A run that was not tested is marked so."""
    metrics = {"val/acc": 0.5, "monitor": "val/acc", "mode": "max"}
    assert render_leaderboards(make_jobs(tmp_path, [("seed=0", metrics)]))[-2] == "all runs: not tested (n = 1)"


# The table: how it looks


def test_table_shows_twenty_best_rows(tmp_path: Path) -> None:
    """The table shows the best twenty rows and counts the others."""
    make_jobs(tmp_path, [(f"optimizer.lr={rate}", accuracy(rate / 100)) for rate in range(48)])
    lines = render_leaderboards(tmp_path)
    assert [row[0] for row in table(lines)[1:]] == [str(rate) for rate in range(47, 27, -1)]
    assert f"… and 28 more: {tmp_path}/results.csv" in lines


def test_constant_settings_have_no_column(tmp_path: Path) -> None:
    """Settings that do not vary on some data have no column in that table."""
    jobs = [("data=mnist optimizer.lr=1", accuracy(0.9)), ("data=xor optimizer.lr=1", accuracy(0.9))]
    lines = render_leaderboards(make_jobs(tmp_path, [*jobs, ("data=xor optimizer.lr=2", accuracy(0.8))]))
    second = next(number for number, line in enumerate(lines) if line.startswith("xor: "))
    assert table(lines[:second]) == [["val/acc", "n"], ["90.00%", "1"]]
    assert table(lines[second:])[0] == ["lr", "val/acc", "n"]


def test_ambiguous_setting_names_are_qualified(tmp_path: Path) -> None:
    """Settings with the same last name are distinguished by their group."""
    settings = "optimizer.lr={0} scheduler.lr={0} model.hidden_size={0}"
    make_jobs(tmp_path, [(settings.format(value), accuracy(0.5)) for value in (1, 2)])
    assert table(render_leaderboards(tmp_path))[0][:3] == ["optimizer lr", "scheduler lr", "hidden size"]


def test_values_are_not_parsed_as_markup(tmp_path: Path) -> None:
    """Values are printed literally and not interpreted as markup."""
    for number, value in enumerate([["red", "bold"], None, "[/x] ‘π’", True]):
        made_job(tmp_path, str(number), f"+model.x={number}", metrics=accuracy(0.5), settings={"model.x": value})
    assert [row[0] for row in table(render_leaderboards(tmp_path))[1:]] == ["[red,bold]", "null", "[/x] ‘π’", "true"]


def long_sweep(tmp_path: Path) -> Path:
    """Three runs that differ in nine settings."""
    shared = "model.hidden_size=[{0},256,128] data.batch_size={0} model.dropout=0.{0} model.batch_norm={1} "
    shared += "model.activation=leaky_relu{0} optimizer.weight_decay=0.000{0} optimizer.lr=0.00{0} "
    shared += "model.loss=cross_entropy{0} optimizer=adam{0}"
    jobs = [(shared.format(512 + n, ["true", "false"][n % 2]), accuracy(0.5 + n / 100)) for n in range(3)]
    return make_jobs(tmp_path / "a_sweep_with_a_long_name_that_says_what_it_is_all_about", jobs)


def test_file_output_is_plain_and_unwrapped(tmp_path: Path) -> None:
    """Output to a file has no colours and is not wrapped."""
    lines = render_leaderboards(long_sweep(tmp_path), width=80)
    assert not any(ESCAPE in line for line in lines)
    rows = table(lines)
    assert len(rows) == 4 and max(map(len, lines)) > 130
    assert rows[1][0] == "[514,256,128]" and rows[1][-2:] == ["52.00%", "1"]


def test_table_fits_80_columns(tmp_path: Path) -> None:
    """In a terminal of 80 columns no row is wider, and nothing is cut off."""
    settings: dict[str, Any] = {"width": 80, "force_terminal": True, "color_system": None}
    lines = render_leaderboards(long_sweep(tmp_path), **settings)
    start = next(number for number, line in enumerate(lines) if "───" in line)
    end = next(number for number, line in enumerate(lines) if line.startswith("chosen"))
    assert max(map(len, lines[start - 3 : end])) <= 80
    shown = "".join(lines[start:end])
    assert "…" not in shown and shown.count("%  1") == 3  # the numbers stay on one line
    assert lines[-1].startswith("  evaluate it:  python -m src.eval run=") and lines[-1].endswith("2_x")  # to copy


def test_best_row_is_bold_in_terminal(tmp_path: Path) -> None:
    make_jobs(tmp_path, [("optimizer.lr=1", accuracy(0.5)), ("optimizer.lr=2", accuracy(0.6))])
    lines = render_leaderboards(tmp_path, width=80, force_terminal=True, color_system="standard")
    best = next(line for line in lines if "60.00%" in line)
    assert f"{ESCAPE}1m" in best
    assert ESCAPE not in next(line for line in lines if "50.00%" in line)


@pytest.mark.parametrize(
    ("metric", "values", "text"),
    [
        ("val/acc", [0.97, 0.98, 0.99], "98.00 ± 1.00%"),
        ("val/acc", [0.97421], "97.42%"),
        ("test/acc", [], "–"),
        ("val/loss", [1.0, 2.0, 3.0], "2 ± 1"),
        ("val/loss", [0.00099571, 0.00099571], "0.0009957 ± 0"),
        ("val/f1", [0.123456], "0.1235"),
        ("val/loss", [1.0, math.nan], "nan"),
    ],
)
def test_metric_format_has_mean_and_deviation(metric: str, values: list[float], text: str) -> None:
    """A metric is formatted as mean ± standard deviation."""
    assert format_mean_std(metric, values) == text
