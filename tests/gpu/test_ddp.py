"""Several processes that train one model: one by NCCL, and two that share the GPU by gloo."""

from pathlib import Path

import pytest
import torch

from tests.command_line import BARE, Outcome, read_history, read_weights, run_process, train_bare
from tests.training.test_nodes import run_on_two_nodes

pytestmark = pytest.mark.gpu
SETTINGS = ("optimizer=sgd", "data.noise=0.3", "data.val_size=51", "data.test_size=1001", "trainer.max_epochs=3")
DDP = ("trainer=ddp", "trainer.devices=1")
GLOO = "trainer.strategy={_target_:lightning.pytorch.strategies.DDPStrategy,process_group_backend:gloo}"


def assert_the_same_run(outcome: Outcome, alone: Outcome) -> None:
    assert outcome.code == 0, outcome.text
    torch.testing.assert_close(read_weights(outcome.folder), read_weights(alone.folder), rtol=1e-5, atol=1e-6)
    for one, other in zip(read_history(outcome.folder), read_history(alone.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.fixture
def accelerator(device: str) -> str:
    return f"trainer.accelerator={device}"


def test_one_ddp_process_matches_plain_run(
    accelerator: str, trainer: str, tmp_path: Path, processes: dict[str, str]
) -> None:
    """One process under trainer=ddp gives the result of a run without it."""
    outcome = run_process("src.train", *BARE, *DDP, accelerator, *SETTINGS, cwd=tmp_path, **processes)
    assert_the_same_run(outcome, train_bare(*SETTINGS, trainer, cwd=tmp_path))


def test_two_ddp_processes_match_plain_run(
    accelerator: str, trainer: str, tmp_path: Path, processes: dict[str, str]
) -> None:
    """Two processes that share the device give the result of a run in one process."""
    two = (*BARE, *DDP, "trainer.num_nodes=2", GLOO, accelerator, *SETTINGS, "name=two")
    first, second = run_on_two_nodes(*two, cwd=tmp_path, **processes)
    assert second.code == 0, second.text
    assert_the_same_run(first, train_bare(*SETTINGS, trainer, cwd=tmp_path))
