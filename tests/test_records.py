import json
from pathlib import Path

import pytest

from src.records import provenance, write_json, write_provenance, write_text


def test_what_json_cannot_say_becomes_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("nan"), "all": [1.5, float("inf")], "n": 3})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "all": [1.5, None], "n": 3}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_who_is_reading_a_file_while_the_next_is_written_reads_it_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}


def test_provenance_names_command_versions_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python", "-m", "src.train", "model.hidden_size=[4, 4]"])
    told = provenance("CPU, 1 thread")
    assert told["command"] == "python -m src.train 'model.hidden_size=[4, 4]'"
    assert told["device"] == "CPU, 1 thread"
    assert told["packages"]["torch"] == __import__("torch").__version__.split("+")[0]


def test_a_resumed_run_keeps_where_it_first_came_from(tmp_path: Path) -> None:
    write_provenance(tmp_path, "first machine")
    write_provenance(tmp_path, "second machine")
    write_provenance(tmp_path, "third machine")
    kept = json.loads((tmp_path / "provenance.json").read_text())
    assert kept["device"] == "first machine"
    assert [start["device"] for start in kept["resumed"]] == ["second machine", "third machine"]
