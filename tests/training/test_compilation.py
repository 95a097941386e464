"""compile=…: training steps by torch.compile, with the time that compiling takes told."""

import re
import shutil
from pathlib import Path

import pytest

from tests.command_line import (
    BARE,
    evaluate,
    is_identical,
    read_history,
    read_json,
    read_weights,
    run,
    run_process,
    train_bare,
)

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler to compile with")
SETTINGS = ("model.hidden_size=5", "data.batch_size=7", "optimizer=sgd")  # 14 batches of 7 points and one of 2
COMPILED = "compile=default"
COMPILE_MESSAGE = re.compile(r"compiled in (\d+\.\d) s \(torch\.compile, mode default\), included in the run's seconds")


def read_compile_times(folder: Path) -> list[float]:
    """The times that a run's log tells, in seconds."""
    return [float(seconds) for seconds in COMPILE_MESSAGE.findall((folder / "train.log").read_text())]


@needs_compiler
def test_compiled_steps_match_plain_steps(
    tmp_path: Path,
) -> None:
    """Compiled steps equal plain ones up to rounding, and each batch size is compiled once."""
    fast = train_bare(*SETTINGS, COMPILED, "trainer.max_epochs=3", cwd=tmp_path)
    plain = train_bare(*SETTINGS, "trainer.max_epochs=3", cwd=tmp_path)
    assert "steps: in chunks" in (fast.folder / "train.log").read_text()
    for one, other in zip(read_history(fast.folder), read_history(plain.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert fast.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-5)
    assert list(read_weights(fast.folder)) == list(read_weights(plain.folder))
    assert "compile_seconds" not in plain.metrics and not read_compile_times(plain.folder)
    spent, times = fast.metrics["compile_seconds"], read_compile_times(fast.folder)
    assert len(times) == 2 and sum(times) == pytest.approx(spent, abs=0.11)
    assert 0 < spent < fast.metrics["seconds"]
    evaluate(f"run={fast.folder}", "split=test", cwd=tmp_path)
    assert read_json(fast.folder / "eval_test.json")["test/loss"] == fast.metrics["test/loss"]


@needs_compiler
def test_compiled_run_resumes_exactly(tmp_path: Path) -> None:
    """A compiled run resumes with the same result and adds up its compile times."""
    lively = (*SETTINGS, COMPILED, "model.dropout=0.2", "data.drop_last=true", "seed=3")
    straight = train_bare(*lively, "trainer.max_epochs=3", cwd=tmp_path).folder
    parted = train_bare(*lively, "trainer.max_epochs=2", cwd=tmp_path).folder
    before = read_json(parted / "metrics.json")["compile_seconds"]
    resumed = run("src.train", f"resume={parted}", "trainer.max_epochs=3", cwd=tmp_path)
    assert resumed.code == 0, resumed.text
    assert is_identical(read_weights(straight), read_weights(parted)) and read_history(straight) == read_history(parted)
    assert read_json(parted / "metrics.json")["compile_seconds"] > before
    changed = run("src.train", f"resume={parted}", "trainer.max_epochs=4", "compile=null", cwd=tmp_path)
    assert changed.error.startswith("error: resume: compile was default when the run started and cannot change to null")


def test_missing_compiler_ends_the_run(tmp_path: Path) -> None:
    """Without a C++ compiler the run ends with an error in one line."""
    nothing = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled before")}
    error = run_process("src.train", *BARE, *SETTINGS, COMPILED, cwd=tmp_path, is_fresh=True, **nothing).error
    assert error.startswith("error: compile=default: torch.compile cannot compile MLPNet here (InvalidCxxCompiler: ")
    assert "'no-such-compiler'" in error and error.endswith("; fix that, or use compile=null")


def test_model_without_network_is_not_compiled(tmp_path: Path) -> None:
    """A model without a network says that there is nothing to compile and runs as usual."""
    outcome = train_bare("model=nearest_neighbor", COMPILED, "trainer.max_epochs=1", cwd=tmp_path)
    assert "note: compile=default: NearestNeighbor has no network (net) to compile" in outcome.out
    assert outcome.metrics["test/acc"] == 1.0 and "compile_seconds" not in outcome.metrics
