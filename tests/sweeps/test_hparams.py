"""A sweep in TensorBoard's HParams tab, as TensorBoard's HTTP interface tells it."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from werkzeug.test import Client

from src.core.errors import InputError
from src.sweeps.store.hparams import EVENT_FILE, write_hparams
from tests.sweeps import made_job

HPARAMS = "/data/plugin/hparams/"
ANY_STATUS = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
METRICS = {"val/acc": 0.75, "test/acc": 0.5, "train/acc": 1.0, "best_epoch": 3, "seconds": 8.0, "seed": 1}


def tensorboard(logdir: Path) -> Client:
    """A client of a TensorBoard that has just been started on a folder."""
    files = EventMultiplexer()
    files.AddRunsFromDirectory(str(logdir))
    files.Reload()
    provider = MultiplexerDataProvider(files, str(logdir))
    context = TBContext(data_provider=provider, logdir=str(logdir), multiplexer=files)
    return Client(TensorBoardWSGI([HParamsPlugin(context), ScalarsPlugin(context)], data_provider=provider))


def query_plugin(client: Client, what: str, **question: Any) -> Any:
    return json.loads(client.post(HPARAMS + what, json=question).get_data())


def columns(client: Client) -> dict[str, str]:
    """The tab's settings with their types."""
    return {told["name"]: told["type"].removeprefix("DATA_TYPE_") for told in query_experiment(client)["hparamInfos"]}


def query_experiment(client: Client) -> dict[str, Any]:
    return dict(query_plugin(client, "experiment", experimentName="", hparamsLimit=0))


def table(client: Client) -> dict[str, tuple[dict[str, Any], dict[str, float], str]]:
    """For each run its settings, its metrics and its status."""
    groups = query_plugin(client, "session_groups", startIndex=0, sliceSize=100, allowedStatuses=ANY_STATUS)[
        "sessionGroups"
    ]
    assert all(len(group["sessions"]) == 1 for group in groups)
    return {
        group["name"]: (
            group.get("hparams", {}),
            {each["name"]["tag"]: each["value"] for each in group["sessions"][0].get("metricValues", [])},
            group["sessions"][0].get("status", "STATUS_UNKNOWN").removeprefix("STATUS_"),
        )
        for group in groups
    }


def curve(client: Client, run: str, tag: str) -> list[tuple[int, float]]:
    """The steps and values of a run's metric."""
    told = client.get("/data/plugin/scalars/scalars", query_string={"run": run, "tag": tag})
    return [(step, value) for _, step, value in json.loads(told.get_data())]


def sweep(folder: Path) -> Path:
    """Four jobs: finished, stopped in the middle, failed at once, waiting."""
    fixed = "trainer.max_epochs=9"
    made_job(folder, "0_a", "model.lr=0.1", "model.norm=true", "model=mlp", fixed, metrics=METRICS)
    interrupted = {"val/acc": 0.0, "best_epoch": 1}
    made_job(
        folder, "1_b", "model.lr=1", "model.norm=false", "model=mlp", fixed, metrics=interrupted, status="interrupted"
    )
    made_job(folder, "2_c", "model.lr=0.1", "model.norm=false", "model=conv", fixed, status="failed", reason="error")
    made_job(folder, "3_d", "model.lr=1", "model.norm=true", "model=conv", fixed)
    write_hparams(folder)
    return folder


def test_columns_are_varying_settings_with_types(tmp_path: Path) -> None:
    """The columns are exactly the settings that vary, each with its type."""
    client = tensorboard(sweep(tmp_path))
    assert columns(client) == {"model.lr": "FLOAT64", "model.norm": "BOOL", "model": "STRING"}
    told = {each["name"]: each for each in query_experiment(client)["hparamInfos"]}
    assert told["model.lr"]["domainInterval"] == {"minValue": 0.1, "maxValue": 1.0}
    assert told["model.norm"]["domainDiscrete"] == [False, True]
    assert told["model"]["domainDiscrete"] == ["conv", "mlp"]


def test_only_validation_and_test_metrics_are_listed(tmp_path: Path) -> None:
    """The listed metrics are the final ones of validation and test, separate from the curves."""
    told = query_experiment(tensorboard(sweep(tmp_path)))["metricInfos"]
    assert [(each["name"]["tag"], each["displayName"]) for each in told] == [
        ("final/val/acc", "val/acc"),
        ("final/test/acc", "test/acc"),
    ]


def test_rows_have_settings_metrics_and_status(tmp_path: Path) -> None:
    """Each run is listed with its settings, metrics and status."""
    assert table(tensorboard(sweep(tmp_path))) == {
        "0_a": (
            {"model.lr": 0.1, "model.norm": True, "model": "mlp"},
            {"final/val/acc": 0.75, "final/test/acc": 0.5},
            "SUCCESS",
        ),
        "1_b": ({"model.lr": 1.0, "model.norm": False, "model": "mlp"}, {"final/val/acc": 0.0}, "FAILURE"),
        "2_c": ({"model.lr": 0.1, "model.norm": False, "model": "conv"}, {}, "FAILURE"),
        "3_d": ({"model.lr": 1.0, "model.norm": True, "model": "conv"}, {}, "UNKNOWN"),
    }


def test_null_is_empty_and_mixed_are_strings(tmp_path: Path) -> None:
    """Among numbers a null leaves its cell empty; mixed values are strings."""
    for number, (dropout, norm) in enumerate([("0.5", "true"), ("null", "batch"), ("0.25", "null")]):
        made_job(
            tmp_path, f"{number}_x", f"dropout={dropout}", f"norm={norm}", "hidden=[4,4]" if number else "hidden=8"
        )
    write_hparams(tmp_path)
    client = tensorboard(tmp_path)
    assert columns(client) == {"dropout": "FLOAT64", "norm": "STRING", "hidden": "STRING"}
    assert [settings for settings, _, _ in table(client).values()] == [
        {"dropout": 0.5, "norm": "true", "hidden": "8"},
        {"norm": "batch", "hidden": "[4,4]"},
        {"dropout": 0.25, "norm": "null", "hidden": "[4,4]"},
    ]


def test_non_finite_metrics_are_omitted(tmp_path: Path) -> None:
    made_job(tmp_path, "0_x", "lr=1", metrics={"val/acc": 0.25, "val/loss": None}, status="failed", reason="diverged")
    made_job(tmp_path, "1_x", "lr=2", metrics={"val/acc": 0.75, "val/loss": 1.5, "test/acc_per_class": {"3": 0.5}})
    write_hparams(tmp_path)
    assert [metrics for _, metrics, _ in table(tensorboard(tmp_path)).values()] == [
        {"final/val/acc": 0.25},
        {"final/val/acc": 0.75, "final/val/loss": 1.5},
    ]


def test_existing_curves_are_unchanged(tmp_path: Path) -> None:
    """Writing the final metrics leaves the curves of a run unchanged."""
    sweep(tmp_path)
    writer = EventFileWriter(str(tmp_path / "0_a"))
    for step, value in enumerate([0.5, 0.75, 0.25]):
        summary = Summary(value=[Summary.Value(tag="val/acc", simple_value=value)])
        writer.add_event(Event(wall_time=step, step=step, summary=summary))
    writer.close()
    assert min(path.name for path in (tmp_path / "0_a").glob("events*")) == EVENT_FILE
    client = tensorboard(tmp_path)
    assert curve(client, "0_a", "val/acc") == [(0, 0.5), (1, 0.75), (2, 0.25)]
    assert curve(client, "0_a", "final/val/acc") == [(3, 0.75)]
    assert table(client)["0_a"][1]["final/val/acc"] == 0.75


def test_sweep_is_not_a_tensorboard_run(tmp_path: Path) -> None:
    """Also not where an earlier version has left it one."""
    (sweep(tmp_path) / EVENT_FILE).write_bytes(b"")
    write_hparams(tmp_path)
    assert sorted(EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Runs()) == ["0_a", "1_b", "2_c", "3_d"]


def test_a_second_call_changes_no_file(tmp_path: Path) -> None:
    files = [folder / EVENT_FILE for folder in sweep(tmp_path).glob("*_*")]
    assert len(files) == 4
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in files}
    again = f"from pathlib import Path; import src.sweeps.store.hparams as h; h.write_hparams(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", again], check=True)  # where hashes fall otherwise
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in files} == before
    assert sorted(tmp_path.rglob("*tfevents*")) == sorted(files)


def test_new_axis_updates_table(tmp_path: Path) -> None:
    """After a sweep was continued with another axis, the table shows its current state."""
    new = ["model.lr=1", "model.norm=true", "model=mlp", "trainer.max_epochs=9", "epochs=5"]
    made_job(sweep(tmp_path), "4_e", *new, metrics=METRICS)
    (tmp_path / "3_d" / "metrics.json").write_text('{"val/acc": 0.5}')
    (tmp_path / "3_d" / "status.json").write_text('{"status": "finished"}')
    write_hparams(tmp_path)
    client = tensorboard(tmp_path)
    assert columns(client) == {"model.lr": "FLOAT64", "model.norm": "BOOL", "model": "STRING", "epochs": "FLOAT64"}
    assert table(client)["3_d"] == (
        {"model.lr": 1.0, "model.norm": True, "model": "conv"},
        {"final/val/acc": 0.5},
        "SUCCESS",
    )
    assert table(client)["4_e"][0] == {"model.lr": 1.0, "model.norm": True, "model": "mlp", "epochs": 5.0}
    assert len(table(client)) == 5


def test_writing_hparams_does_not_import_torch(tmp_path: Path) -> None:
    sweep(tmp_path)
    (tmp_path / "0_a" / EVENT_FILE).unlink()
    code = (
        "import sys; from pathlib import Path; from src.sweeps.store.hparams import write_hparams; "
        f"write_hparams(Path({str(tmp_path)!r})); assert not {{'torch', 'tensorflow'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "0_a" / EVENT_FILE).is_file()


@pytest.mark.parametrize("command", ["compare", "report"])
def test_summary_commands_write_hparams(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compare and report commands write the HParams data."""
    sweep(tmp_path)
    (tmp_path / "2_c" / EVENT_FILE).unlink()
    (tmp_path / "multirun.yaml").write_text("hydra: {}")
    monkeypatch.setattr(sys, "argv", [command, str(tmp_path)])
    import_module(f"src.{command}").main()
    assert table(tensorboard(tmp_path))["2_c"][2] == "FAILURE"


def test_folder_without_jobs_raises_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it contains no jobs"):
        write_hparams(tmp_path)
