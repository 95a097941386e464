"""One run on several nodes: what two processes on this machine do that are started as on two, by hand."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.core.processes import BY_HAND, SINGLE_PROCESS, SRUN, TORCHRUN, ProcessInfo, detect_process, resolve_process
from src.training.distributed import make_cluster_environment
from tests.command_line import (
    BARE,
    PROCESS_TIMEOUT,
    Outcome,
    drop_overridden,
    read_history,
    read_json,
    read_weights,
    run,
    run_folders,
    spawn,
    train_bare,
)

DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1")
TWO = (*DDP, "trainer.num_nodes=2")
SETTINGS = ("optimizer=sgd", "data.noise=0.3", "data.val_size=51", "data.test_size=1001", "trainer.max_epochs=3")
FAILING_CALLBACK = """
from pathlib import Path
from lightning import Callback

class Ill(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1 and trainer.current_epoch == 1 and not Path("well").exists():
            raise RuntimeError("node one is ill")
"""
SLURM = {"SLURM_NODEID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
ONE_NODE = {"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_NODES": "1"}
ONE_NODE |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
ELASTIC = {"GROUP_RANK": "0", "LOCAL_RANK": "1", "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}


@pytest.fixture(autouse=True)
def no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing has given this process a place."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name in ("NODE_RANK", "LOCAL_RANK", "GROUP_RANK"):
            monkeypatch.delenv(name)


def find_free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_on_two_nodes(*settings: str, cwd: Path, **environment: str) -> list[Outcome]:
    """The same command on node 0 and on node 1, to their ends; node 1 starts first."""
    meeting = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_port()}
    started: list[subprocess.Popen[str]] = []
    outcomes = []
    try:
        for node in "10":
            started.insert(0, spawn("src.train", *settings, cwd=cwd, NODE_RANK=node, **meeting))
        for process in started:
            out, err = process.communicate(timeout=PROCESS_TIMEOUT)
            outcomes.append(Outcome(process.returncode, out, err, sorted(run_folders(cwd))))
    finally:
        for process in started:
            process.kill()
    return outcomes


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def failed(cwd: Path) -> list[Outcome]:
    """A run on two nodes, of which the second fails in its second epoch."""
    (cwd / "ill.py").write_text(FAILING_CALLBACK)
    outcomes = run_on_two_nodes(*TWO, *SETTINGS, *BARE, "+callbacks.ill._target_=ill.Ill", "name=two", cwd=cwd)
    shutil.copy(outcomes[0].folder / "status.json", cwd / "status.json")
    return outcomes


@pytest.fixture(scope="module")
def resumed(failed: list[Outcome], cwd: Path) -> list[Outcome]:
    """The same run gone on with on both nodes."""
    (cwd / "well").touch()
    return run_on_two_nodes("resume=outputs/runs/two", "trust=ill", cwd=cwd)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run in one process, never stopped."""
    return train_bare(*SETTINGS, cwd=tmp_path_factory.mktemp("alone"))


def test_failing_node_ends_all_nodes(failed: list[Outcome], cwd: Path) -> None:
    """If one node fails, all nodes end and each of them says why."""
    first, second = failed
    assert (first.code, second.code) == (1, 1)
    assert "error: another process of this run has ended, its own output says why" in first.error
    assert "error: in process 0 of node 1: node one is ill" in second.text
    status = read_json(cwd / "status.json")
    assert status["status"] == "failed"
    assert status["message"].startswith("another process of this run has ended")


def test_resumed_two_node_run_matches_single_process(resumed: list[Outcome], alone: Outcome) -> None:
    """A run on two nodes resumes with the result of a run in one process."""
    assert [outcome.code for outcome in resumed] == [0, 0], resumed
    folder = resumed[0].folder
    rows = read_history(folder)
    assert len(rows) == 3
    for row, other in zip(rows, read_history(alone.folder), strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    together, single = read_weights(folder), read_weights(alone.folder)
    assert all(torch.allclose(together[key], single[key], rtol=1e-4, atol=1e-6) for key in single)
    for metric in ("test/loss", "test/acc", "best_epoch", "seed"):
        assert resumed[0].metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-5)


def test_only_first_node_writes_and_logs(resumed: list[Outcome]) -> None:
    """The first node alone writes files and logs; the second only says that it waits."""
    first, second = resumed
    names = {path.name for path in first.folder.iterdir()}
    files = {"metrics.json", "status.json", "history.csv", "provenance.json", "train.log", ".lock"}
    assert names == {*files, ".hydra", "checkpoints"}
    assert "train longer:" in first.out
    assert second.out.strip().startswith("node 1: waiting for all 2 nodes at 127.0.0.1:")
    assert len(second.out.strip().splitlines()) == 1
    log = (first.folder / "train.log").read_text()
    assert [log.count(f"epoch {epoch}/3 ") for epoch in (1, 2, 3)] == [1, 1, 1]


def test_existing_name_is_refused_on_each_node(
    resumed: list[Outcome], cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (resumed[0].folder / "metrics.json").read_text()
    for node in "01":
        set_rendezvous(monkeypatch, NODE_RANK=node)
        assert (
            "outputs/runs/two already exists: choose another name="
            in run(*("src.train", *TWO, "name=two"), cwd=cwd).error
        )
    assert (resumed[0].folder / "metrics.json").read_text() == before


def set_rendezvous(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0", **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "variables", "said"),
    [
        (("name=x",), None, "trainer.num_nodes=2: set NODE_RANK, MASTER_ADDR, MASTER_PORT on each node"),
        (("name=x",), {"MASTER_ADDR": ""}, "trainer.num_nodes=2: set MASTER_ADDR on each node"),
        (("name=x",), {"NODE_RANK": "2"}, "NODE_RANK=2: trainer.num_nodes=2, so it must be a number from 0 to 1"),
        (("name=x",), {"NODE_RANK": "one"}, "NODE_RANK=one: "),
        (("name=x",), {"MASTER_PORT": "http"}, "MASTER_PORT=http: a port is a number from 1 to 65535"),
        ((), {}, "on several nodes a run needs name=…"),
        (("name=x", "seed=null"), {}, "on several nodes a run needs seed=…"),
        (("name=x", "trainer.num_nodes=0"), {}, "trainer.num_nodes=0 "),
    ],
)
def test_endless_wait_is_refused(
    settings: tuple[str, ...],
    variables: dict[str, str] | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings with which the nodes would wait for ever are refused in one line."""
    if variables is not None:
        set_rendezvous(monkeypatch, **variables)
    assert said in run("src.train", *drop_overridden(*TWO, *settings), cwd=tmp_path).error


def test_unshared_folder_is_refused(tmp_path: Path) -> None:
    """A node that does not see the run's folder on shared storage refuses to train."""
    from src.training.distributed import DistributedGuard

    settings: Any = {"trainer": None, "pl_module": None}
    with pytest.raises(InputError, match="must be on storage that all nodes share"):
        DistributedGuard(tmp_path).on_fit_start(**settings)


@pytest.mark.parametrize("variables", [{}, ONE_NODE])
def test_local_processes_meet_on_loopback(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of one machine meet at an address that no other machine can reach."""
    outside = {"MASTER_ADDR": "192.0.2.1", "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
    for name, value in {**variables, **outside, "MASTER_PORT": find_free_port()}.items():
        monkeypatch.setenv(name, value)
    meeting = make_cluster_environment({"strategy": "ddp", "devices": 2, "num_nodes": 1})
    assert meeting.main_address == "127.0.0.1"
    socket.create_connection(("127.0.0.1", meeting.main_port)).close()
    with pytest.raises(ConnectionRefusedError):  # by whatever else this machine is reached at
        socket.create_connection(("127.0.0.2", meeting.main_port))
    assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert os.environ["NCCL_SOCKET_IFNAME"] in ("=lo", "=lo0")


def test_occupied_port_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        meeting = make_cluster_environment({"strategy": "ddp", "devices": 2, "num_nodes": 1})
        with pytest.raises(InputError, match=r"cannot connect there \(Address already in use\)"):
            _ = meeting.main_address


def test_nodes_meet_at_master_addr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of several machines meet at the address in MASTER_ADDR."""
    set_rendezvous(monkeypatch, MASTER_ADDR="192.0.2.1", GLOO_SOCKET_IFNAME="eth0")
    assert make_cluster_environment({"strategy": "ddp", "devices": 2, "num_nodes": 2}).main_address == "192.0.2.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ProcessInfo(0, 0, 0, 0, BY_HAND)),
        ({"NODE_RANK": "1", "LOCAL_RANK": "3"}, ProcessInfo(1, 3, 0, 0, BY_HAND)),
        (ELASTIC, ProcessInfo(0, 1, 1, 2, TORCHRUN)),
        (SLURM, ProcessInfo(1, 0, 2, 2, SRUN)),
        ({**SLURM, **ELASTIC}, ProcessInfo(0, 1, 1, 2, TORCHRUN)),
        ({"SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, ProcessInfo(0, 0, 0, 0, BY_HAND)),  # no srun
    ],
)
def test_process_detects_its_rank(
    variables: dict[str, str], found: ProcessInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process detects its rank, and what started it, from the environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert detect_process() == found
    assert found.is_rank_zero == (found.node_rank == 0 and found.local_rank == 0)


def test_independent_tasks_are_all_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm tasks that train one model each are all rank 0."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert resolve_process({"strategy": "auto", "devices": 1}) == SINGLE_PROCESS
    assert SINGLE_PROCESS.is_rank_zero


@pytest.mark.parametrize(
    ("variables", "trainer", "said"),
    [
        (SLURM, {"strategy": "ddp", "devices": 2, "num_nodes": 1}, "srun has started 2 processes on 2 nodes: "),
        (SLURM, {"strategy": "ddp", "devices": 1, "num_nodes": 2}, "--ntasks-per-node=1"),
        (ELASTIC, {"strategy": "auto", "devices": 1}, "trainer=ddp trainer.num_nodes=1 trainer.devices=2"),
        ({"NODE_RANK": "1"}, {"strategy": "ddp", "devices": 1, "num_nodes": 1}, "from 0 to 0"),
    ],
)
def test_mismatch_with_started_processes_is_refused(
    variables: dict[str, str], trainer: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that do not match the processes that were started are refused."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        resolve_process(trainer)
