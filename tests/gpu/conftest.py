"""The device that tests marked "gpu" run on: the GPU, or with GPU_DRY=1 the CPU in its place."""

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import command_line

DRY = os.environ.get("GPU_DRY") == "1"
SECONDS = float(os.environ.get("GPU_SECONDS", "inf"))  # after so many no further test begins
REPORT = os.environ.get("GPU_REPORT")  # a file: the tests' names, then of each that ran its name and what was wrong
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # of several processes that run the tests, this one; else None
BEGAN = time.monotonic()
DEVICE = "cuda" if torch.cuda.is_available() and not DRY else "cpu"

if DEVICE == "cuda":  # before CUDA's libraries look
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same results each time
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # float32 is what the CPU calculates in, not TF32


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    if DEVICE == "cpu" and not DRY:
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def note(line: list[Any]) -> None:
    if REPORT:
        with open(REPORT, "a") as file:
            file.write(json.dumps(line) + "\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    if WORKER in (None, "gw0"):  # each of several processes collects them all
        note([item.name for item in session.items])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if WORKER is None and (report.when == "call" or report.failed):  # the first process hears of all
        name = report.nodeid.rpartition("::")[2]
        note([name, describe_failure(report.longrepr) if report.failed else None])


def describe_failure(found: Any) -> str:
    """Return the first line of what was wrong, without the paths of temporary folders."""
    crash = getattr(found, "reprcrash", None)
    line = str(crash.message if crash else found).strip().splitlines()[0]
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/[^\s'\"]*", "…", line)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if time.monotonic() - BEGAN > SECONDS:
        item.session.shouldstop = f"the {SECONDS:g} seconds are over"


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session")
def trainer() -> str:
    """The choice of trainer that trains on the device."""
    return "trainer=gpu" if DEVICE == "cuda" else "trainer=cpu"


@pytest.fixture
def processes() -> dict[str, str]:
    """The environment of processes that use the device."""
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0") if DEVICE == "cuda" else ""}


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands in this process see the GPU; then its memory is free and arithmetic as it was."""
    if DEVICE == "cuda":
        monkeypatch.setattr(command_line, "HIDDEN_DEVICES", ())
    precision, searching = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = searching
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


@pytest.fixture
def wheat_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, with wheat seeds that pass for the published ones."""
    from tests.data.test_wheat import make_lines, trust_text

    (data_dir / "wheat").mkdir(exist_ok=True)
    (data_dir / "wheat" / "seeds_dataset.txt").write_text(trust_text(monkeypatch, "\n".join(make_lines())))
    return data_dir
