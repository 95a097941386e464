"""The same jobs trained together and each by itself."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.callbacks.history import Row
from src.sweeps.store.jobs import create_job, describe_job
from src.vectorized.entry import train_jobs
from src.vectorized.spec import StackJobSpec, StackSpec
from tests.command_line import BARE, isolate_process_state, read_history, read_weights, train_bare
from tests.course.presets import composed

Settings = list[str]
EXACT = ["trainer.precision=64-true", "trainer.accelerator=cpu"]


def make_job_settings(shared: Settings, *own: str) -> list[Settings]:
    """Jobs that have settings in common, and each some of its own, parted by spaces."""
    return [[*shared, *EXACT, *each.split()] for each in own]


def train_together(cwd: Path, jobs: list[Settings]) -> list[Path]:
    """Train jobs as one stack; returns their folders."""
    folders = [cwd / "together" / str(number) for number in range(len(jobs))]
    with isolate_process_state("src.train", (), cwd):
        parts = [make_stack_job(composed(*BARE, *job), folder) for job, folder in zip(jobs, folders, strict=True)]
        train_jobs(StackSpec(parts, cwd / "together" / "state.ckpt", 500, {}, []))
    return folders


def make_stack_job(config: DictConfig, folder: Path) -> StackJobSpec:
    """A job of a stack, noted in its folder as a sweep does."""
    HydraConfig.instance().set_config(config)
    job = create_job(folder, int(folder.name), describe_job(config))
    return StackJobSpec(pickle.dumps(config), folder, job.settings)


def train_alone(cwd: Path, jobs: list[Settings]) -> list[Path]:
    """Train each job by itself; returns their folders."""
    return [train_bare(*job, cwd=cwd).folder for job in jobs]


def assert_same_as_alone(cwd: Path, jobs: list[Settings], steps: int = 50) -> None:
    """The jobs come to the same weights to 1e-9, and to the same metrics as they are logged, in float32."""
    for mine, other in zip(train_together(cwd, jobs), train_alone(cwd, jobs), strict=True):
        assert load_checkpoint(mine)["global_step"] == load_checkpoint(other)["global_step"] >= steps
        for name in ("last", "best"):
            torch.testing.assert_close(read_weights(mine, name), read_weights(other, name), rtol=0, atol=1e-9)
        states, others = (load_checkpoint(folder)["optimizer_states"][0] for folder in (mine, other))
        assert states["param_groups"] == others["param_groups"]
        torch.testing.assert_close(states["state"], others["state"], rtol=1e-9, atol=1e-9)
        assert load_checkpoint(mine)["lr_schedulers"] == load_checkpoint(other)["lr_schedulers"]
        assert read_early_stopping(mine) == read_early_stopping(other)
        for name in ("best", "last"):
            assert read_stop_state(mine, name) == read_stop_state(other, name)
        assert_close(read_history(mine), read_history(other))
        assert_close([read_metrics(mine)], [read_metrics(other)])


def assert_close(rows: list[Row], others: list[Row]) -> None:
    rows, others = [[dict(sorted(row.items())) for row in each] for each in (rows, others)]
    assert [list(row) for row in rows] == [list(row) for row in others]
    torch.testing.assert_close(
        [torch.tensor(list(row.values())) for row in rows],
        [torch.tensor(list(row.values())) for row in others],
        rtol=5e-7,
        atol=5e-7,
    )


def read_metrics(folder: Path) -> dict[str, float]:
    """The numbers of ``metrics.json`` that do not depend on the clock."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if isinstance(value, (int, float)) and name != "seconds"}


def read_early_stopping(folder: Path) -> list[dict[str, Any]]:
    """What early stopping has kept, in the end."""
    states = load_checkpoint(folder)["callbacks"].items()
    kept = [dict(state) for name, state in states if name.startswith("EarlyStopping")]
    return [state | {"best_score": round(float(state["best_score"]), 5)} for state in kept]


def read_stop_state(folder: Path, name: str) -> Any:
    """What had told training to stop when a checkpoint was written; ``None`` if there is none."""
    written = (folder / "checkpoints" / f"{name}.ckpt").exists()
    return load_checkpoint(folder, name)["callbacks"]["RunCheckpoint"]["stops"] if written else None


def load_checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
    return found
