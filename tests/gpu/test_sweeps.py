"""Many jobs on one GPU: as one stack, or side by side, where one that dies frees its memory."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.command_line import BARE, get_small_image_settings, read_json, run_process
from tests.vectorized.both_ways import assert_same_as_alone, make_job_settings

pytestmark = pytest.mark.gpu
STACKS = {
    "mlp": ["model=mlp", "model.hidden_size=[6,4]", "model.batch_norm=true", "data.batch_size=8"],
    "cnn": ["model=cnn", "model.channels=[4,6]", "model.hidden_size=8", "data.flip=false", "data.crop=0"],
}
JOB_SETTINGS = ("seed=0 optimizer.lr=0.01", "seed=1 optimizer.lr=0.03", "seed=2 optimizer.lr=0.1")


class MemoryBallast(Callback):
    """Takes a lot of the GPU's memory in the job with seed 1, whose process is then killed; the others note its use."""

    SETTING = "+callbacks.burdened._target_=tests.gpu.test_sweeps.MemoryBallast"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder, killed = Path(trainer.default_root_dir), Path("was_killed")  # in the working directory
        cuda = pl_module.device.type == "cuda"
        if not folder.name.startswith("1_"):
            (folder / "used.json").write_text(json.dumps(count_used_memory(pl_module.device.type)))
        elif not killed.exists():
            killed.touch()
            torch.ones(get_ballast() if cuda else 1, dtype=torch.uint8, device=pl_module.device)
            os.kill(os.getpid(), signal.SIGKILL)


def get_ballast() -> int:
    """The bytes of a quarter of a GPU's memory: more than other tests use meanwhile."""
    return torch.cuda.mem_get_info()[1] // 4


def count_used_memory(device: str) -> int:
    """The bytes of a GPU's memory that all processes use together; of the CPU's none."""
    free, total = torch.cuda.mem_get_info() if device == "cuda" else (0, 0)
    return total - free


@pytest.mark.parametrize("kind", STACKS)
def test_stack_matches_its_separate_jobs(kind: str, data_dir: Path, trainer: str, tmp_path: Path) -> None:
    """A stack gives the results that its jobs give when each is trained alone."""
    shared = [
        *get_small_image_settings("mnist", data_dir),
        *STACKS[kind],
        "model.dropout=0",
        "optimizer=adam",
        "trainer.max_epochs=5",
    ]
    accelerator = "cuda" if trainer == "trainer=gpu" else "cpu"
    jobs = [[*job, f"trainer.accelerator={accelerator}"] for job in make_job_settings(shared, *JOB_SETTINGS)]
    assert_same_as_alone(tmp_path, jobs)


def test_killed_job_frees_memory_and_reruns(
    device: str, trainer: str, tmp_path: Path, processes: dict[str, str]
) -> None:
    """A killed job frees its memory, and the same command runs it again."""
    before = count_used_memory(device)
    launcher = ("hydra.launcher.jobs=null", "hydra.launcher.jobs_per_gpu=2", "hydra/launcher=local")
    command = [
        "-m",
        *BARE,
        trainer,
        "seed=range(4)",
        MemoryBallast.SETTING,
        "trainer.max_epochs=2",
        *launcher,
        "name=all",
    ]
    outcome = run_process("src.train", *command, cwd=tmp_path, **processes)
    jobs = sorted(folder for folder in outcome.folders if folder.name[:2] in ("0_", "1_", "2_", "3_"))
    states = [read_json(folder / "status.json") for folder in jobs]
    assert [state["status"] for state in states] == ["finished", "failed", "finished", "finished"], outcome.text
    assert states[1]["reason"] == "killed" and outcome.code == 1
    if device == "cuda":
        assert json.loads((jobs[3] / "used.json").read_text()) - before < get_ballast()
    again = run_process("src.train", *command, cwd=tmp_path, **processes)
    assert again.code == 0 and read_json(jobs[1] / "status.json")["status"] == "finished", again.text
