"""Files of runs and sweeps are read by their tables: one line names the file, the field and what it must be."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.storage import schema
from src.storage.files import write_csv, write_json
from src.storage.schema import Check, DamagedError, read_checked, read_history

METRICS = {"val/acc": 0.5, "monitor": "val/acc", "mode": "max", "best": 0.5, "best_epoch": 1, "epochs": 2, "seed": 0}
JOB = {"number": 3, "identity": "0f", "overrides": ["a=1"], "choices": {"data": "xor", "b": None}, "settings": {}}
SEARCH = {"sampler": "tpe", "metric": "a", "mode": "min", "trials": [], "importance": {}}
TRIAL = {"number": 0, "job": 0, "state": "complete", "value": 1.0}


def get_fault(path: Path, check: Check) -> str:
    """What is wrong with a file, which is told in one line that begins with its path."""
    with pytest.raises(DamagedError) as error:
        read_checked(path, check)
    message = str(error.value)
    assert message.startswith(f"{path} ") and "\n" not in message
    return message.removeprefix(f"{path} ").removeprefix("is damaged: ")


@pytest.mark.parametrize(
    ("check", "whole", "field", "value", "fault"),
    [
        (schema.STATUS, {"status": "finished"}, "status", [], "status is a list and must be finished or failed"),
        (schema.STATUS, {"status": "finished"}, "status", "Finished", 'status is "Finished" and must be finished or'),
        (schema.STATUS, {"status": "finished"}, "reason", 1, "reason is 1 and must be text"),
        (schema.STATUS, {"status": "finished"}, "status", ..., "status is missing"),
        (schema.JOB, JOB, "settings", [], "settings is a list and must be a mapping"),
        (schema.JOB, JOB, "settings", {"a": float("inf")}, "settings.a is Infinity and must be a finite number"),
        (schema.JOB, JOB, "settings", {"a": [1, {"b": float("nan")}]}, "settings.a[1].b is NaN and must be"),
        (schema.JOB, JOB, "overrides", "a=1", 'overrides is "a=1" and must be a list'),
        (schema.JOB, JOB, "overrides", [1], "overrides[0] is 1 and must be text"),
        (schema.JOB, JOB, "number", True, "number is true and must be a whole number from 0"),
        (schema.JOB, JOB, "number", -1, "number is -1 and must be a whole number from 0"),
        (schema.JOB, JOB, "identity", ..., "identity is missing"),
        (schema.check_metrics, METRICS, "val/acc", "high", 'val/acc is "high" and must be a finite number'),
        (schema.check_metrics, METRICS, "val/acc", float("inf"), "val/acc is Infinity and must be a finite number"),
        (schema.check_metrics, METRICS, "val/acc", 10**400, "val/acc is 1000"),
        (schema.check_metrics, METRICS, "val/acc", True, "val/acc is true and must be a finite number"),
        (schema.check_metrics, METRICS, "val/acc", ..., '"val/acc" is missing, although best is its best value'),
        (schema.check_metrics, METRICS, "test/each", {"0": "x"}, 'test/each.0 is "x" and must be a finite number'),
        (schema.check_metrics, METRICS, "mode", "highest", 'mode is "highest" and must be min or max'),
        (schema.check_metrics, METRICS, "best_epoch", 1.5, "best_epoch is 1.5 and must be a whole number from 0"),
        (schema.check_metrics, METRICS, "epochs", 2**63, "epochs is 9223372036854775808 and must be"),
        (schema.check_metrics, METRICS, "seconds", -1, "seconds is -1 and must be seconds from 0"),
        (schema.PROVENANCE, {"command": "x"}, "git", "0f", 'git is "0f" and must be a mapping'),
        (schema.PROVENANCE, {"command": "x"}, "started", "yesterday", 'started is "yesterday" and must be a time'),
        (schema.PROVENANCE, {"command": "x"}, "resumed", [{"device": 0}], "resumed[0].device is 0 and must be text"),
        (
            schema.STACK,
            {"state": "stacks/0-1_0f.ckpt"},
            "state",
            "../x.ckpt",
            'state is "../x.ckpt" and must be a path',
        ),
        (
            schema.STACK,
            {"state": "stacks/0-1_0f.ckpt"},
            "state",
            "/a/x.ckpt",
            'state is "/a/x.ckpt" and must be a path',
        ),
        (schema.SEARCH, SEARCH, "trials", [{**TRIAL, "state": "done"}], 'trials[0].state is "done" and must be'),
        (schema.SEARCH, SEARCH, "trials", [{**TRIAL, "job": "0"}], 'trials[0].job is "0" and must be a whole number'),
        (schema.SEARCH, SEARCH, "importance", {"lr": 2}, "importance.lr is 2 and must be a fraction from 0 to 1"),
    ],
)
def test_invalid_field_is_named(
    check: Check, whole: dict[str, Any], field: str, value: Any, fault: str, tmp_path: Path
) -> None:
    """A field that is missing or has a wrong type or range is named."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole))
    assert read_checked(path, check) == whole
    content = {key: each for key, each in {**whole, field: value}.items() if each is not ...}
    path.write_text(json.dumps(content))
    assert get_fault(path, check).startswith(fault)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "it is not JSON (Expecting property name"),
        (b"[1]", "it is a list and must be a mapping"),
        (b"null", "it is null and must be a mapping"),
        (b"\xff\xfe{}", "it is not UTF-8 text"),
        (b'{"status": "failed", "status": "finished"}', 'it is not JSON ("status" occurs twice)'),
        (b'{"status": "failed", "message": "\\ud800"}', "it is not JSON ("),
        (b'{"status": "failed", "message": 1e400}', "message is Infinity and must be text"),
        (b'{"status": ' + b"9" * 5000 + b"}", "it is not JSON ("),
        (b"[" * 100_000, "it is not JSON ("),
    ],
    ids=lambda each: repr(each)[:20],
)
def test_invalid_json_is_reported(content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_bytes(content)
    assert get_fault(tmp_path / "status.json", schema.STATUS).startswith(fault)


def test_missing_file_is_not_damaged(tmp_path: Path) -> None:
    assert read_checked(tmp_path / "status.json", schema.STATUS) is None
    assert read_history(tmp_path / "history.csv") == []


def test_irregular_file_is_reported(tmp_path: Path) -> None:
    """A pipe or a folder in the place of a file is reported."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        assert get_fault(tmp_path / name, schema.STATUS) == "is not a regular file"


def test_only_first_faults_are_reported(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {f"val/{number}": "x" for number in range(1000)})
    fault = 'val/{} is "x" and must be a finite number'
    assert get_fault(tmp_path / "a.json", schema.check_metrics) == f"{'; '.join(map(fault.format, range(3)))}; and more"
    write_json(tmp_path / "a.json", {f"val/{number}": 1 for number in range(10_001)})
    assert get_fault(tmp_path / "a.json", schema.check_metrics) == "it has 10,001 values and must have at most 10,000"


def test_null_and_unknown_fields_are_accepted(tmp_path: Path) -> None:
    """Files have null for values that are not finite, and other versions may have other fields."""
    write_json(tmp_path / "metrics.json", {**METRICS, "val/acc": float("nan"), "best": float("inf"), "speed": 3})
    found = read_checked(tmp_path / "metrics.json", schema.check_metrics)
    assert found == {**METRICS, "val/acc": None, "best": None, "speed": 3}


# history.csv


def test_history_is_read_as_written(tmp_path: Path) -> None:
    """Values that were not measured are left out."""
    rows = [{"epoch": 1, "a": 0.1, "b": 1e-30}, {"epoch": 3, "a": float("inf")}]
    write_csv(tmp_path / "history.csv", rows)
    assert read_history(tmp_path / "history.csv", epochs=2) == rows


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"epoch,a\n1,half", 'a in line 2 is "half" and must be a number'),
        (b"epoch,a\n1,1_0", 'a in line 2 is "1_0" and must be a number'),
        (b"epoch,a\n1,2,3", "line 2 has 3 values and must have 2"),
        (b"epoch,a\n1,2\n2", "line 3 has 1 values and must have 2"),
        (b"epoch,a\n1,\xff", "it is not UTF-8 text"),
        (b"epoch,a,a\n1,2,3", "its column names must be unique"),
        (b"a,b\n1,2", "its column epoch is missing"),
        (b"epoch,a\n2,1\n2,1", "epoch in line 3 is 2 and must be a whole number above 2"),
        (b"epoch,a\n1.5,1", "epoch in line 2 is 1.5 and must be a whole number above 0"),
        (b"epoch,a\ninf,1", "epoch in line 2 is inf and must be a whole number above 0"),
        (b"epoch,a\nnan,1", "epoch in line 2 is nan and must be a whole number above 0"),
        (b"epoch,a\n,1", "epoch in line 2 is 0 and must be a whole number above 0"),
        (b'epoch,a\n1,"2', "unexpected end of data"),
        (b"epoch,a\n1,2\n", "it has 1 epochs and must have 2"),
        (
            b"epoch," + b",".join(b"%d" % number for number in range(20_000)) + b"\n",
            "its column names must be unique",
        ),
    ],
    ids=lambda each: repr(each)[:20],
)
def test_damaged_history_is_reported(content: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as error:
        read_history(path, epochs=2)
    assert str(error.value).startswith(f"{path} is damaged: {fault}") and "\n" not in str(error.value)


def test_missing_history_is_reported(tmp_path: Path) -> None:
    """A missing history is reported if the run has finished epochs."""
    with pytest.raises(DamagedError, match=r"history\.csv is missing$"):
        read_history(tmp_path / "history.csv", epochs=2)
