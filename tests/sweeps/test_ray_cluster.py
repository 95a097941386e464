"""Sweeps on Ray: a cluster of two machines, one of which is lost, and a cluster of the sweep's own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from lightning import Callback, LightningModule, Trainer

from src.sweeps.store.jobs import Job
from tests.command_line import BARE, ROOT, Outcome, run, run_process, spawn, wait_for
from tests.sweeps.outcomes import assert_same_results, read_sweep_jobs
from tests.trouble import FaultInjector, inject_faults, read_events, wait_for_second_epoch

RAY = "hydra/launcher=ray"
RECORDED_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAY_AUTH_TOKEN")


class EnvironmentRecorder(Callback):
    """Writes down what a job finds in its environment."""

    SETTING = "+callbacks.surroundings._target_=tests.sweeps.test_ray_cluster.EnvironmentRecorder"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = [f"{name}={os.environ.get(name)}" for name in RECORDED_VARIABLES]
        (Path(trainer.default_root_dir) / "surroundings.txt").write_text("\n".join(found))


SWEEP = ("-m", *BARE, FaultInjector.SETTING, EnvironmentRecorder.SETTING, "model.hidden_size=4", "trainer.max_epochs=3")
SIX = (*SWEEP, "seed=0,1,2,3,4,5", "name=six")
ONE = (*SWEEP, "seed=0", "name=one")


def read_environment(job: Job) -> dict[str, str]:
    lines = (job.folder / "surroundings.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def get_job_outcomes(cwd: Path, name: str) -> list[tuple[str, str | None]]:
    return [(job.status["status"], job.status["reason"]) for job in read_sweep_jobs(cwd, name)]


def events(cwd: Path) -> Counter[tuple[int, str]]:
    """How often each job began each epoch, and was tested."""
    return Counter((note.number, note.event) for note in read_events(cwd))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the six jobs were run by the local launcher, without any trouble."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    inject_faults(cwd, {})
    outcome = run("src.train", *SIX, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return cwd


# Processes


def processes() -> dict[int, tuple[int, str]]:
    """All processes that live: the parent and the command of each."""
    found = {}
    for line in subprocess.check_output(["ps", "-ww", "-eo", "pid=,ppid=,stat=,args="], text=True).splitlines():
        pid, parent, state, command = line.split(maxsplit=3)
        if not state.startswith("Z"):
            found[int(pid)] = (int(parent), command)
    return found


def find_process_tree(pid: int) -> set[int]:
    """A process and all that it has started."""
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, (parent, _) in processes().items() if parent in new} - found
    return found


# A cluster of two machines, each with one core and a GPU that is only said to be there


class Nodes(NamedTuple):
    """A running cluster: its address, its environment and its folder."""

    address: str
    environment: dict[str, str]
    folder: Path

    def start(self, number: int) -> None:
        """Begin a machine; the first is the head."""
        port = self.address.rsplit(":", 1)[1]
        role = ["--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        arguments = role if number == 1 else [f"--address={self.address}"]
        size = [f"--node-ip-address={self.ip(number)}", "--num-cpus=1", "--num-gpus=1"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, *size, "--disable-usage-stats"]
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "7"}
        out = self.folder / "start.txt"
        with out.open("w") as file:
            assert subprocess.run(command, env=environment, stdout=file, stderr=file).returncode == 0, out.read_text()

    def ip(self, number: int) -> str:
        return f"127.0.0.{number + 1}"  # Ray turns 127.0.0.1 into the address that other machines see

    def kill(self, number: int | None = None) -> None:
        """Kill a machine at one blow, what runs there with it; ``None``: all of them."""
        of = f"--node_ip_address={self.ip(number)}" if number else ""
        heads = [
            pid
            for pid, (_, command) in processes().items()
            if of in command and (str(self.folder) in command or self.address in command)
        ]
        for pid in set().union(*map(find_process_tree, heads)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: paths of sockets may have no more than 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, as below
    found = Nodes(f"127.0.0.2:{port}", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7e" * 32}, folder)
    try:
        found.start(1)
        found.start(2)
        yield found
    finally:
        found.kill()
        shutil.rmtree(folder, ignore_errors=True)


class NodeLoss(NamedTuple):
    """What there was to see of a sweep on two machines, the second of which was killed.

    Attributes:
        cwd: where it ran.
        first: how it ended.
        held: the two jobs that ran when the machine was killed.
        failing: those that then raised an error, ended without a word and were killed.
        statuses: those of all jobs.
        events: what they had done.
        again: the same sweep by the local launcher, when nothing was wrong any more.
    """

    cwd: Path
    first: Outcome
    held: set[int]
    failing: list[int]
    statuses: list[tuple[str, str | None]]
    events: Counter[tuple[int, str]]
    again: Outcome


@pytest.fixture(scope="module")
def lost(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> NodeLoss:
    cwd = tmp_path_factory.mktemp("lost")
    on_ray = (RAY, f"hydra.launcher.address={nodes.address}", "hydra.launcher.gpus_per_job=0.5")

    def held() -> set[int]:
        return {number for number, event in events(cwd) if event == "2"}

    inject_faults(cwd, dict.fromkeys(range(6), "hold"))
    with spawn("src.train", *SIX, *on_ray, cwd=cwd, **nodes.environment) as sweep:
        wait_for(lambda: len(held()) == 2, "a job on each machine")
        running = held()
        raises, exits, killed, _ = rest = sorted(set(range(6)) - running)
        nodes.kill(2)
        inject_faults(cwd, {raises: "raise", exits: "exit", killed: "hold"})
        os.kill(wait_for_second_epoch(cwd, killed)[0], signal.SIGKILL)
        out, err = sweep.communicate(timeout=120)
    first, seen, done = Outcome(sweep.returncode, out, err), get_job_outcomes(cwd, "six"), events(cwd)
    inject_faults(cwd, {})
    again = run("src.train", *SIX, cwd=cwd)
    return NodeLoss(cwd, first, running, rest[:3], seen, done, again)


def test_job_of_lost_node_resumes_elsewhere(lost: NodeLoss) -> None:
    """If a machine is lost, its job resumes on another one, and each result exists exactly once."""
    fine = set(range(6)) - set(lost.failing)
    assert {number for number, end in enumerate(lost.statuses) if end == ("finished", None)} == fine
    assert {key: count for key, count in lost.events.items() if key[1] == "test"} == {(n, "test"): 1 for n in fine}
    twice = [key for key, count in lost.events.items() if count > 1]
    assert len(twice) == 1 and twice[0][0] in lost.held and twice[0][1] == "2"  # the epoch in flight, no other


def test_failing_job_does_not_affect_others(lost: NodeLoss) -> None:
    """A job on Ray that raises an error, exits or is killed fails alone."""
    assert [lost.statuses[number] for number in lost.failing] == [
        ("failed", "error"),
        ("failed", "error"),
        ("failed", "killed"),
    ]
    assert lost.first.code == 1
    assert lost.first.err.startswith("error: 3 failed of 6 jobs; resume with: python -m src.train -m ")
    assert "Traceback" not in lost.first.text and "raylet" not in lost.first.text


def test_job_environment_has_gpu_without_token(lost: NodeLoss) -> None:
    """A job on Ray sees its GPU and the sweep's threads, but not the cluster's token."""
    expected = {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1", "RAY_AUTH_TOKEN": "None"}
    assert [read_environment(read_sweep_jobs(lost.cwd, "six")[number]) for number in lost.held] == [expected] * 2
    assert {note.cores for note in read_events(lost.cwd) if note.number in lost.held} == {1}


def test_local_launcher_reuses_ray_results(lost: NodeLoss, undisturbed: Path) -> None:
    """The local launcher skips jobs that finished on Ray; all results are bit-identical."""
    assert lost.again.code == 0, lost.again.text
    assert "6 jobs: 3 finished before" in lost.again.out
    assert_same_results(read_sweep_jobs(lost.cwd, "six"), read_sweep_jobs(undisturbed, "six"))


def test_missing_resources_and_wrong_token_are_reported(nodes: Nodes, tmp_path: Path) -> None:
    """Resources that the cluster lacks and a wrong token are each reported in one line."""
    where = (*ONE, RAY, f"hydra.launcher.address={nodes.address}")
    outcome = run_process("src.train", *where, "hydra.launcher.gpus_per_job=2", cwd=tmp_path, **nodes.environment)
    assert outcome.error == (
        "error: hydra.launcher.cpus_per_job=1 gpus_per_job=2: no machine of the Ray cluster at "
        f"{nodes.address} has that much; available: 1 CPUs and 1 GPUs"
    )
    wrong = {**nodes.environment, "RAY_AUTH_TOKEN": "1f" * 32}
    outcome = run_process("src.train", *where, cwd=tmp_path, **wrong)
    assert outcome.error.startswith(f"error: the Ray cluster at {nodes.address}: it requires the token")
    outcome = run_process("src.train", *where, "trainer=gpu", cwd=tmp_path, **nodes.environment)
    assert outcome.error == "error: trainer=gpu needs GPUs: hydra.launcher.gpus_per_job=1, or a fraction to share one"
    assert read_sweep_jobs(tmp_path, "one") == [] or get_job_outcomes(tmp_path, "one") == [("waiting", None)]


# Stopped


def stop(parent: "subprocess.Popen[str]", name: str) -> None:
    """Send a sweep a signal; Ctrl-C in a terminal reaches all processes of its group."""
    group = os.getpgid(parent.pid)
    for pid in find_process_tree(parent.pid) if name == "SIGINT" else {parent.pid}:
        if os.getpgid(pid) == group:
            os.kill(pid, signal.Signals[name])


def run_and_stop_job(
    cwd: Path, settings: tuple[str, ...], signal_name: str, **environment: str
) -> tuple[Outcome, set[int]]:
    """A sweep of one job that is stopped while the job runs, and the processes that were there for it."""
    inject_faults(cwd, {0: "hold"})
    with spawn("src.train", *ONE, RAY, *settings, cwd=cwd, **environment) as parent:
        wait_for_second_epoch(cwd, 0)
        started = find_process_tree(parent.pid) | find_process_tree(read_events(cwd)[0].parent)
        stop(parent, signal_name)
        out, err = parent.communicate(timeout=60)
    return Outcome(parent.returncode, out, err), started


def assert_sweep_resumes(cwd: Path, undisturbed: Path) -> None:
    inject_faults(cwd, {})
    assert run("src.train", *ONE, cwd=cwd).code == 0
    assert events(cwd) == {(0, "1"): 1, (0, "2"): 2, (0, "3"): 1, (0, "test"): 1}
    assert_same_results(read_sweep_jobs(cwd, "one"), read_sweep_jobs(undisturbed, "six"))


def test_ctrl_c_stops_jobs_and_own_cluster(undisturbed: Path, short: Path, tmp_path: Path) -> None:
    """Ctrl-C stops the jobs and the sweep's own cluster; the sweep can be resumed."""
    outcome, started = run_and_stop_job(tmp_path, (), "SIGINT", TMPDIR=str(short))
    wait_for(lambda: not started & set(processes()), f"{started} to end")
    assert outcome.code == 130 and "Traceback" not in outcome.text, outcome.text
    assert "1 unfinished of 1 jobs; resume with: " in outcome.out
    assert get_job_outcomes(tmp_path, "one") == [("interrupted", "killed")]
    assert read_environment(read_sweep_jobs(tmp_path, "one")[0])["CUDA_VISIBLE_DEVICES"] == ""
    assert list(short.glob("ray-*")) == []
    assert_sweep_resumes(tmp_path, undisturbed)


def test_sigterm_stops_jobs_but_not_cluster(nodes: Nodes, undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM stops the sweep's jobs on an existing cluster, but not the cluster itself."""
    where = (f"hydra.launcher.address={nodes.address}",)
    outcome, _ = run_and_stop_job(tmp_path, where, "SIGTERM", **nodes.environment)
    job = read_events(tmp_path)[0].process
    wait_for(lambda: job not in processes(), "the job to end")
    assert outcome.code == 143 and "Traceback" not in outcome.text, outcome.text
    assert get_job_outcomes(tmp_path, "one") == [("interrupted", "killed")]
    socket.create_connection(("127.0.0.2", int(nodes.address.split(":")[1])), timeout=5).close()
    assert_sweep_resumes(tmp_path, undisturbed)


# Told before there is a cluster


def run_refused_sweep(*settings: str, cwd: Path) -> str:
    outcome = run("src.train", *ONE, RAY, *settings, cwd=cwd)
    assert outcome.folders == []
    return outcome.error


def test_unreachable_cluster_is_reported(tmp_path: Path) -> None:
    """A cluster that cannot be reached is reported before the sweep starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    told = run_refused_sweep(f"hydra.launcher.address={address}", cwd=tmp_path)
    assert told.startswith(f"error: hydra.launcher.address={address}: nothing answers there")


def test_missing_ray_gives_install_command(tmp_path: Path) -> None:
    """Without the package ray, one line says how to install it."""

    def find_spec(name: str, *arguments: Any) -> Any:
        return None if name == "ray" else found(name, *arguments)

    found = util.find_spec
    with mock.patch("src.core.extras.find_spec", find_spec):
        told = run_refused_sweep(cwd=tmp_path)
    assert told.startswith("error: hydra/launcher=ray needs the package ray, which is not installed: ")
    assert told.endswith("pip install -c constraints.txt -e '.[ray]'")
