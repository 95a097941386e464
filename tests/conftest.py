"""What several tests share."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.shortcuts import taking_shortcuts
from tests.small_data import write_cifar10, write_mnist

signal.signal(signal.SIGINT, signal.default_int_handler)  # what nohup starts ignores Ctrl-C, which some tests send
# As in a shell with the environment on, where `python` stands for this one.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


# Tests that train much, or start processes: `make test-fast` leaves them out.
SLOW = (
    *("chaos/", "compatibility/", "course/", "gpu/", "hostile/", "vectorized/", "test_configs", "test_readme"),
    *(f"cli/test_{name}" for name in ("bad_input", "cli", "overrides", "presets", "startup")),
    *(f"models/test_{name}" for name in ("nearest_neighbor", "steps")),
    *("optimizers/", "storage/test_foreign_checkpoints"),
    *(f"sweeps/test_{name}" for name in ("general_presets", "group_sweeps", "jobs", "local_launcher", "pool")),
    *(f"sweeps/test_{name}" for name in ("ray_cluster", "report_anywhere", "search.", "slurm", "touched", "undrawn")),
    *(f"sweeps/test_{name}" for name in ("launcher_contract", "vectorized_launcher")),
    *(f"training/test_{name}" for name in ("any_module", "compilation", "ddp", "edges", "ends", "figures", "measured")),
    *(f"training/test_{name}" for name in ("mps", "nodes", "own_classes", "python_run", "refusals", "resume", "train")),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: some tests wait for processes, for a quarter of the whole time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder) and item.path.relative_to(folder).as_posix().startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with MNIST, FashionMNIST and CIFAR-10, each 200 training and 100 test images."""
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    write_mnist(root, "FashionMNIST", seed=1)
    write_cifar10(root)
    return root


@pytest.fixture(scope="session", autouse=True)
def _shortcuts() -> Iterator[None]:
    with taking_shortcuts():
        yield


@pytest.fixture(autouse=True)
def alike() -> None:
    """For each test the same random numbers, and one thread: two on a busy machine wait for each other."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
