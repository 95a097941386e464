"""What `make gpu` keeps: part by part, whole, and what was measured here already is known."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench.measuring import OURS, Table
from tests.command_line import ROOT, read_json
from tests.gpu import __main__ as command
from tests.gpu.conftest import describe_failure
from tests.gpu.record import Record, describe_table, digest_code
from tests.gpu.stage import MissingError, Stage, TimeUp

ENVIRONMENT = {"device": "a GPU", "code": "123", "versions": {"torch": "2"}}
TABLE = Table("Seconds of something", "s", {OURS: [2.0, 1.0, 4.0], "another way": [6.0]}, OURS, ("a note",), "a goal")


def stage(tmp_path: Path, left: float = 100.0) -> Stage:
    return Stage("cuda", tmp_path, time.monotonic() + left)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A part "steps" that finds a table, and then raises what stands here."""
    what: dict[str, Any] = {}

    class Part:
        @staticmethod
        def measure(stage: Stage) -> Any:
            yield "first", TABLE
            if what:
                raise what["error"]

    monkeypatch.setattr(command.importlib, "import_module", lambda name: Part)
    return what


def test_part_is_recorded_with_its_environment(tmp_path: Path, measured: dict[str, Any]) -> None:
    """A part is recorded with its device, code and versions, and the other parts stay."""
    record = Record(tmp_path / "bench.json", ENVIRONMENT)
    record.keep("many", {"tables": {}}, 1.0, complete=True)
    assert command.run_part("steps", stage(tmp_path), record)
    found = read_json(record.path)
    assert list(found) == ["many", "steps"]
    rows = found["steps"]["tables"]["first"]["rows"]
    assert rows[OURS] == {"n": 3, "median": 2.0, "min": 1.0, "max": 4.0, "ratio": 1.0, "values": [2.0, 1.0, 4.0]}
    assert rows["another way"]["ratio"] == 3.0 and found["steps"]["tables"]["first"]["goal"] == "a goal"
    assert found["steps"]["device"] == "a GPU" and found["steps"]["versions"] == {"torch": "2"}
    assert record.has("steps") and not record.has("augment")
    assert not Record(record.path, {**ENVIRONMENT, "device": "another"}).has("steps")
    assert not Record(record.path, {**ENVIRONMENT, "code": "124"}).has("steps")


@pytest.mark.parametrize(
    ("error", "well"), [(TimeUp("it is late"), True), (MissingError("no MNIST"), False), (RuntimeError("ill"), False)]
)
def test_partial_results_are_kept(error: Exception, well: bool, tmp_path: Path, measured: dict[str, Any]) -> None:
    """What a part has measured before it stops is kept."""
    measured["error"] = error
    record = Record(tmp_path / "bench.json", ENVIRONMENT)
    assert command.run_part("steps", stage(tmp_path), record) == well
    assert read_json(record.path)["steps"]["tables"]["first"] == describe_table(TABLE) and not record.has("steps")
    assert read_json(record.path)["steps"].get("failed") == (None if well else str(error))


def test_nothing_starts_without_time_or_data(tmp_path: Path) -> None:
    """Nothing starts if the time is over or a data set is missing."""
    with pytest.raises(TimeUp):
        stage(tmp_path, 10.0).run("-c", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended with status 3: it is ill"):
        stage(tmp_path).run("-c", "print('it is ill'); raise SystemExit(3)")
    with pytest.raises(MissingError, match=f"CIFAR-10 is not in {tmp_path}"):
        stage(tmp_path).images("cifar10")


def test_arguments_choose_the_parts() -> None:
    """Arguments choose the parts, and a part that is named gets more time."""
    assert command.choose([]) == command.SECONDS and sum(command.SECONDS.values()) <= 480
    assert command.choose(["dry"]) == command.SECONDS
    assert list(command.choose(["bench"])) == ["steps", "augment", "evaluate"]
    assert command.choose(["bench", "steps"]) == {"steps": command.MOST} == command.choose(["steps"])
    assert max(command.MOST, *command.SECONDS.values()) <= 180


def test_missing_gpu_or_wrong_argument_is_reported() -> None:
    """Without a GPU or with a wrong argument the command ends with an error in one line."""

    def told(*words: str) -> str:
        environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "", "PYTHONPATH": str(ROOT)}
        given = [sys.executable, "-m", "tests.gpu", *words]
        return subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stderr

    assert (
        told("bench").strip() == "error: there is no GPU here that torch can use; ARGS=dry tries it all out on the CPU"
    )
    assert "there is no part stepz: choose tests, steps" in told("stepz")


def test_the_digest_follows_the_code(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    first = digest_code(tmp_path)
    (tmp_path / "src" / "a.py").write_text("2")
    assert digest_code(tmp_path) != first
    shutil.rmtree(tmp_path / "src")
    assert digest_code(tmp_path) not in ("", first)


def test_failure_is_described_without_temporary_paths(tmp_path: Path) -> None:
    """The record has the first line of a failed test's message, and no path of the machine."""
    found = SimpleNamespace(
        reprcrash=SimpleNamespace(message=f"AssertionError: {tmp_path}/a.ckpt is gone\nassert 1 == 0")
    )
    assert describe_failure(found) == "AssertionError: … is gone"
    assert describe_failure(f"no tests in {tmp_path}\nmore") == "no tests in …"
