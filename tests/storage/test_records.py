import json
from pathlib import Path

import pytest

from src.storage.records import collect_provenance, write_provenance


def test_provenance_names_command_versions_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python", "-m", "src.train", "model.hidden_size=[4, 4]"])
    told = collect_provenance("CPU, 1 thread")
    assert told["command"] == "python -m src.train 'model.hidden_size=[4, 4]'"
    assert told["device"] == "CPU, 1 thread"
    assert told["packages"]["torch"] == __import__("torch").__version__.split("+")[0]


def test_resumed_run_keeps_original_provenance(tmp_path: Path) -> None:
    write_provenance(tmp_path, "first machine", {})
    write_provenance(tmp_path, "second machine", {"train": 3})
    write_provenance(tmp_path, "third machine", {})
    kept = json.loads((tmp_path / "provenance.json").read_text())
    assert kept["device"] == "first machine"
    assert [start["device"] for start in kept["resumed"]] == ["second machine", "third machine"]
