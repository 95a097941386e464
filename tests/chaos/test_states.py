"""A short part of ``make chaos ARGS=states``: the next start plans right from whatever a crash leaves."""

import random
from pathlib import Path

import pytest

from src.storage import files
from src.storage.files import Operation, append_bytes, remove_file, write_text
from tests.chaos.crash import Disk, draw_crash
from tests.chaos.planners import plan_run, plan_sweep
from tests.chaos.recording import Recorded, make_absolute, record_command
from tests.chaos.stage import explore
from tests.chaos.states import BARE, SCENARIOS
from tests.command_line import train


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """The operations that the test makes on the disk."""
    seen: list[Operation] = []

    def observe(operation: Operation) -> None:
        seen.append(make_absolute(operation))

    monkeypatch.setattr(files, "OBSERVERS", [observe])
    return seen


def apply_operations(operations: list[Operation]) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return disk


def test_synced_data_survive_power_loss(tmp_path: Path, operations: list[Operation]) -> None:
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "new")
    append_bytes(tmp_path / "b", b"1\n")
    remove_file(tmp_path / "a")
    disk = apply_operations(operations)
    assert disk.after_kill() == {tmp_path / "b": b"1\n"}
    assert disk.certain() == {tmp_path / "a": b"new", tmp_path / "b": b"1\n"}
    states = {frozenset(disk.after_power_loss(random.Random(seed)).items()) for seed in range(30)}
    assert {dict(state).get(tmp_path / "a") for state in states} == {b"new", None}


def test_unsynced_data_may_be_lost(tmp_path: Path, operations: list[Operation]) -> None:
    """Unsynced data may be lost in part and in any order."""
    write_text(tmp_path / "a", "first")
    write_text(tmp_path / "b", "second")
    unsynced = [each for each in operations if not each.kind.startswith("sync")]
    disk = apply_operations(unsynced)
    states = [disk.after_power_loss(random.Random(seed)) for seed in range(200)]
    assert any(tmp_path / "b" in state and tmp_path / "a" not in state for state in states)
    assert {state.get(tmp_path / "a") for state in states} >= {None, b"", b"first", bytes(5), b"fi"}


@pytest.mark.parametrize("arguments", [("trainer.max_epochs=3",), ("trainer.max_steps=15",)], ids=["epochs", "steps"])
def test_run_resumes_from_every_crash(arguments: tuple[str, ...], tmp_path: Path, operations: list[Operation]) -> None:
    """After a crash at any point the next start of a run plans the right steps."""
    outcome = train(*BARE, *arguments, cwd=tmp_path)
    recording = [Recorded(0, each) for each in operations]
    found = explore(recording, tmp_path / "outputs", plan_run(outcome.folder), seed=0, count=300)
    assert not found.wrong, found.examples
    assert len(found.states) > 50
    hasty = [each for each in recording if not each.operation.kind.startswith("sync")]
    assert explore(hasty, tmp_path / "outputs", plan_run(outcome.folder), seed=0, count=100).wrong


def test_sweep_resumes_from_every_crash(tmp_path: Path) -> None:
    """After a crash at any point the next start of a sweep plans the right jobs."""
    recording = record_command(list(SCENARIOS["sweep, local"].arguments), tmp_path)
    planner = plan_sweep(tmp_path / "outputs" / "sweeps" / "x")
    found = explore(recording, tmp_path / "outputs", planner, seed=0, count=200)
    assert not found.wrong, found.examples
    assert len(found.states) > 100


def test_same_seed_draws_same_crash(tmp_path: Path, operations: list[Operation]) -> None:
    for number in range(5):
        write_text(tmp_path / str(number), "text")
    recording = [Recorded(number % 2, each) for number, each in enumerate(operations)]
    crashes = [[draw_crash(recording, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert crashes[0] == crashes[1] and len({each.what for each in crashes[0]}) == 3
