"""What several tests share."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from tests.small_data import write_cifar10, write_mnist

signal.signal(signal.SIGINT, signal.default_int_handler)  # what nohup starts ignores Ctrl-C, which some tests send
# As in a shell with the environment on, where `python` stands for this one.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with MNIST, FashionMNIST and CIFAR-10, each 200 training and 100 test images."""
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    write_mnist(root, "FashionMNIST", seed=1)
    write_cifar10(root)
    return root


@pytest.fixture(autouse=True)
def alike() -> None:
    """For each test the same random numbers, and one thread: two on a busy machine wait for each other."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
