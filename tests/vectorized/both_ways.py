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
from tests.command_line import BARE, history, own_process_state, quick, weights
from tests.course.presets import composed

Settings = list[str]
EXACT = ["trainer.precision=64-true", "trainer.accelerator=cpu"]


def jobs_with(shared: Settings, *own: str) -> list[Settings]:
    """Jobs that have settings in common, and each some of its own, parted by spaces."""
    return [[*shared, *EXACT, *each.split()] for each in own]


def together(cwd: Path, jobs: list[Settings]) -> list[Path]:
    """Train jobs as one stack; returns their folders."""
    folders = [cwd / "together" / str(number) for number in range(len(jobs))]
    with own_process_state("src.train", (), cwd):
        parts = [part(composed(*BARE, *job), folder) for job, folder in zip(jobs, folders, strict=True)]
        train_jobs(StackSpec(parts, cwd / "together" / "state.ckpt", 500, {}, []))
    return folders


def part(config: DictConfig, folder: Path) -> StackJobSpec:
    """A job of a stack, noted in its folder as a sweep does."""
    HydraConfig.instance().set_config(config)
    job = create_job(folder, int(folder.name), describe_job(config))
    return StackJobSpec(pickle.dumps(config), folder, job.settings)


def alone(cwd: Path, jobs: list[Settings]) -> list[Path]:
    """Train each job by itself; returns their folders."""
    return [quick(*job, cwd=cwd).folder for job in jobs]


def assert_both_ways_the_same(cwd: Path, jobs: list[Settings], steps: int = 50) -> None:
    """The jobs come to the same weights to 1e-9, and to the same metrics as they are logged, in float32."""
    for mine, other in zip(together(cwd, jobs), alone(cwd, jobs), strict=True):
        assert checkpoint(mine)["global_step"] == checkpoint(other)["global_step"] >= steps
        for name in ("last", "best"):
            torch.testing.assert_close(weights(mine, name), weights(other, name), rtol=0, atol=1e-9)
        states, others = (checkpoint(folder)["optimizer_states"][0] for folder in (mine, other))
        assert states["param_groups"] == others["param_groups"]
        torch.testing.assert_close(states["state"], others["state"], rtol=1e-9, atol=1e-9)
        assert checkpoint(mine)["lr_schedulers"] == checkpoint(other)["lr_schedulers"]
        assert stopping(mine) == stopping(other)
        for name in ("best", "last"):
            assert stops(mine, name) == stops(other, name)
        assert_close(history(mine), history(other))
        assert_close([metrics(mine)], [metrics(other)])


def assert_close(rows: list[Row], others: list[Row]) -> None:
    rows, others = [[dict(sorted(row.items())) for row in each] for each in (rows, others)]
    assert [list(row) for row in rows] == [list(row) for row in others]
    torch.testing.assert_close(
        [torch.tensor(list(row.values())) for row in rows],
        [torch.tensor(list(row.values())) for row in others],
        rtol=5e-7,
        atol=5e-7,
    )


def metrics(folder: Path) -> dict[str, float]:
    """The numbers of ``metrics.json`` that do not depend on the clock."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if isinstance(value, (int, float)) and name != "seconds"}


def stopping(folder: Path) -> list[dict[str, Any]]:
    """What early stopping has kept, in the end."""
    states = checkpoint(folder)["callbacks"].items()
    kept = [dict(state) for name, state in states if name.startswith("EarlyStopping")]
    return [state | {"best_score": round(float(state["best_score"]), 5)} for state in kept]


def stops(folder: Path, name: str) -> Any:
    """What had told training to stop when a checkpoint was written; ``None`` if there is none."""
    written = (folder / "checkpoints" / f"{name}.ckpt").exists()
    return checkpoint(folder, name)["callbacks"]["RunCheckpoint"]["stops"] if written else None


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
    return found
