"""Several processes that train one model together, here two on the CPU."""

import shutil
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command_line import (
    BARE,
    PROCESS_TIMEOUT,
    Outcome,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    run_folders,
    run_process,
    spawn,
    train,
    train_bare,
)
from tests.uneven_shares import CASES, train_case

# Plain gradient descent, so that only rounding may differ; odd numbers of points, so that the processes' shares of
# the last batch differ.
SETTINGS = (
    "optimizer=sgd",
    "model.hidden_size=16",
    "model.l2=0.01",
    "data.noise=0.3",
    "data.train_size=97",
    "data.val_size=51",
    "data.test_size=1001",
    "trainer.max_epochs=3",
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
# Notes what its process listens on (of the sockets in /proc/net those that it has open); then the second one fails.
FAILING_CALLBACK = """
import os
from pathlib import Path
from lightning import Callback

def links(folder):
    for path in folder.iterdir():
        try:
            yield os.readlink(path)
        except FileNotFoundError:  # closed by now, as the folder itself that is read here
            pass

class Ill(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        own = set(links(Path("/proc/self/fd")))
        rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
        found = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
        Path(f"listens{trainer.global_rank}").write_text(" ".join(found))
        trainer.strategy.barrier()
        if trainer.global_rank == 1:
            raise ValueError("process one is ill")
"""


def find_outer_interface() -> str:
    """A network interface that leads out of this machine; where it has none, the one that does not."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith(("e", "w"))), names[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Runs of two processes each, started side by side: one that is right, one that is refused, one that fails."""
    ill = "+callbacks.ill._target_=ill.Ill"
    commands = {"right": SETTINGS, "uneven": (*SETTINGS, "data.batch_size=15"), "ill": (*SETTINGS, ill)}
    folders = {name: tmp_path_factory.mktemp(name) for name in commands}
    (folders["ill"] / "ill.py").write_text(FAILING_CALLBACK)
    outside = {"GLOO_SOCKET_IFNAME": find_outer_interface(), "MASTER_ADDR": "192.0.2.1"}  # as for several machines
    started: dict[str, subprocess.Popen[str]] = {}
    outcomes = {}
    try:
        for name, settings in commands.items():
            started[name] = spawn("src.train", *BARE, *TWO, *settings, cwd=folders[name], **outside)
        for name, process in started.items():
            out, err = process.communicate(timeout=PROCESS_TIMEOUT)
            outcomes[name] = Outcome(process.returncode, out, err, sorted(run_folders(folders[name])))
    finally:
        for process in started.values():
            process.kill()
    return outcomes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run in one process."""
    return train_bare(*SETTINGS, cwd=tmp_path_factory.mktemp("alone"))


def test_two_processes_share_one_folder(runs: dict[str, Outcome]) -> None:
    outcome = runs["right"]
    assert outcome.code == 0, outcome.text
    assert read_json(outcome.folder / "status.json")["status"] == "finished"
    assert {path.name for path in (outcome.folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in outcome.folder.parent.parent.iterdir()} == {"runs"}


def test_messages_appear_once(runs: dict[str, Outcome]) -> None:
    """With two ranks each message appears once in the output and in the log."""
    outcome = runs["right"]
    assert outcome.out.count("MLP on XOR") == 1
    assert outcome.out.count("train longer:") == 1
    assert "warning" not in outcome.text.lower()
    assert "sync_dist" not in outcome.text
    log = (outcome.folder / "train.log").read_text()
    assert [log.count(f"epoch {epoch}/3 ") for epoch in (1, 2, 3)] == [1, 1, 1]


def test_error_in_second_process_is_reported(runs: dict[str, Outcome]) -> None:
    assert runs["ill"].code != 0
    assert "error: in process 1: process one is ill" in runs["ill"].text


def test_local_processes_listen_on_loopback_only(runs: dict[str, Outcome]) -> None:
    """Processes of one machine listen on its loopback address only, even if the environment names another."""
    cwd = runs["ill"].folder.parent.parent.parent
    sockets = [(cwd / f"listens{rank}").read_text().split() for rank in (0, 1)]
    assert [len(each) for each in sockets] == [2, 1]  # where all meet, and what each opens for the other
    for address in (*sockets[0], *sockets[1]):
        assert parse_address(address.split(":")[0]).is_loopback, address


def parse_address(text: str) -> Any:
    """An IP address from its words of four bytes, each as this machine keeps it, in hexadecimal digits."""
    words = [bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8)]
    found: Any = ip_address(b"".join(int.from_bytes(word, "big").to_bytes(4, sys.byteorder) for word in words))
    return getattr(found, "ipv4_mapped", None) or found


def test_metrics_match_single_process(runs: dict[str, Outcome], alone: Outcome) -> None:
    for row, other in zip(read_history(runs["right"].folder), read_history(alone.folder), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_weights_match_single_process(runs: dict[str, Outcome], alone: Outcome) -> None:
    for name in ("best", "last"):
        shared, single = read_weights(runs["right"].folder, name), read_weights(alone.folder, name)
        assert shared.keys() == single.keys()
        assert all(torch.allclose(shared[key], single[key], rtol=1e-5, atol=1e-7) for key in single)


def test_each_test_point_counts_once(runs: dict[str, Outcome], alone: Outcome) -> None:
    shared, single = runs["right"].metrics, alone.metrics
    assert shared["test/loss"] == pytest.approx(single["test/loss"], rel=1e-5)
    assert shared["test/acc"] == pytest.approx(single["test/acc"], rel=1e-6)
    assert round(shared["test/acc"] * 1001) == pytest.approx(shared["test/acc"] * 1001, abs=1e-3)
    assert shared["test/acc_per_class"] == pytest.approx(single["test/acc_per_class"], rel=1e-6)


def test_indivisible_batch_size_is_refused(runs: dict[str, Outcome]) -> None:
    """A batch size that cannot be divided evenly among the processes is refused."""
    error = runs["uneven"].error
    assert "data.batch_size=15" in error
    assert "2 processes" in error


def test_ddp_run_resumes_in_one_process(runs: dict[str, Outcome], alone: Outcome, tmp_path: Path) -> None:
    """A run of two processes resumes in one with the result of a run in one process."""
    folders = [Path(shutil.copytree(runs["right"].folder, tmp_path / "shared"))]
    folders.append(Path(shutil.copytree(alone.folder, tmp_path / "alone")))
    for folder in folders:
        one = ["trainer.strategy=auto", "trainer.devices=1", "trainer.max_epochs=5"]
        train(f"resume={folder}", *one, cwd=tmp_path)
    shared, single = [read_history(folder) for folder in folders]
    assert len(shared) == 5
    for row, other in zip(shared, single, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


# Shares that differ


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two processes make of each case."""
    folder = tmp_path_factory.mktemp("together")
    outcome = run_process("tests.uneven_shares", str(folder), cwd=folder)
    assert outcome.code == 0, outcome.text
    return load_checkpoint(folder / "results.pt")


@pytest.mark.parametrize("name", CASES)
def test_uneven_shards_match_single_process(name: str, together: dict[str, dict[str, Any]]) -> None:
    """Steps and metrics equal those of one process, however unevenly the samples are divided."""
    shared, single = together[name], train_case(CASES[name], devices=1)
    assert shared["weights"].keys() == single["weights"].keys()
    for key, weight in single["weights"].items():
        assert torch.allclose(shared["weights"][key], weight, rtol=1e-10, atol=1e-12), key
    assert shared["metrics"] == pytest.approx(single["metrics"], rel=1e-6)
    assert shared["losses"] == pytest.approx(single["losses"], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("data.batch_size=32",), "batch norm needs 4 samples for 2 processes: with 99 samples and data.batch_size=32"),
        (("data.batch_size=2",), "choose another data.batch_size (4 or more)"),
        (("+trainer.sync_batchnorm=true",), "trainer.sync_batchnorm=true works on GPUs alone"),
    ],
)
def test_unsupported_batch_norm_is_refused(settings: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Batch norm is refused if a rank gets too few samples, and synchronised batch norm on the CPU."""
    given = ("model.batch_norm=true", "data.train_size=99", *settings)
    assert said in run("src.train", *BARE, *TWO, *given, cwd=tmp_path).error
