"""Read a process's resources and its rank in a distributed run from environment variables."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError

CORES_VARIABLE = "THUNDERHEAD_CORES"  # the number of CPU cores of a process that shares the machine with others
GPU_FRACTION_VARIABLE = (
    "THUNDERHEAD_GPU_SHARE"  # the fraction of GPU memory that a process may use; unset: all that is free
)
EPOCH_LIMIT_VARIABLE = "THUNDERHEAD_EPOCH_LIMIT"  # the epoch after which a run pauses; unset: it runs to its end
TORCHRUN, SRUN, BY_HAND = "torchrun", "srun", ""
# The variables that each one sets: node rank, local rank, number of nodes, number of processes.
RANK_VARIABLES = {
    TORCHRUN: ("GROUP_RANK", "LOCAL_RANK", "GROUP_WORLD_SIZE", "WORLD_SIZE"),
    SRUN: ("SLURM_NODEID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"),
    BY_HAND: ("NODE_RANK", "LOCAL_RANK", "", ""),  # Lightning sets them, too, for the other processes of a node
}
RENDEZVOUS_VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that a user sets by hand


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if (count := os.environ.get(CORES_VARIABLE, "")).isdigit():
        return int(count)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_epoch_limit() -> int | None:
    """Return the epoch after which a run of this process pauses; ``None``: it runs to its end."""
    limit = os.environ.get(EPOCH_LIMIT_VARIABLE, "")
    return int(limit) if limit.isdigit() else None


@cache
def get_memory_bytes() -> int:
    """Return the memory in bytes that this process may use: the machine's, or its container's if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        with suppress(OSError, ValueError):
            found.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(found)


class ProcessInfo(NamedTuple):
    """The rank of a process among those that train one model together.

    Attributes:
        node_rank: the node rank, from 0.
        local_rank: the local rank on the node, from 0.
        nodes: the number of nodes; 0: unknown.
        processes: the number of processes on all nodes; 0: unknown.
        starter: the program that started the processes on each node.
    """

    node_rank: int
    local_rank: int
    nodes: int
    processes: int
    starter: str

    @property
    def is_rank_zero(self) -> bool:
        """True for rank 0, the process that writes files and logs for all."""
        return self.node_rank == self.local_rank == 0

    @property
    def is_externally_launched(self) -> bool:
        """True if the run has processes that were not started by rank 0."""
        return self.starter != BY_HAND or self.nodes > 1

    def __str__(self) -> str:
        return f"process {self.local_rank}" + (f" of node {self.node_rank}" if self.node_rank else "")


SINGLE_PROCESS = ProcessInfo(0, 0, 1, 1, BY_HAND)


def detect_process() -> ProcessInfo:
    """Return this process's rank from the environment variables of the program that started it."""
    starter = BY_HAND
    if _read_number("SLURM_STEP_NUM_TASKS") > 1:  # a batch script is not a step, and an interactive shell has one task
        starter = SRUN
    if "TORCHELASTIC_RUN_ID" in os.environ:  # takes precedence, since srun may have started torchrun
        starter = TORCHRUN
    node, local, nodes, processes = (_read_number(name) for name in RANK_VARIABLES[starter])
    return ProcessInfo(node, local, nodes, processes, starter)


def _read_number(name: str) -> int:
    """Return an environment variable as a number; 0 if it is unset or not a number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Return True if the trainer's settings make a run distributed: several processes may train one model."""
    parts = (trainer.get("strategy", "auto"), trainer.get("num_nodes", 1), trainer.get("devices", 1))
    return parts != ("auto", 1, 1)


def resolve_process(trainer: Mapping[str, Any]) -> ProcessInfo:
    """Return this process's rank in a run with these trainer settings.

    Slurm tasks that each train their own model all have rank 0.

    Raises:
        InputError: if the started processes do not match the settings, so that they would wait for each other forever.
    """
    process = detect_process()
    nodes, devices = trainer.get("num_nodes", 1), trainer.get("devices", 1)
    nodes = nodes if isinstance(nodes, int) and nodes > 0 else 1  # invalid values are rejected by `check`
    if not is_distributed(trainer) and not (process.starter == TORCHRUN and process.processes > 1):
        return SINGLE_PROCESS
    per_node = process.processes // max(1, process.nodes)
    if process.starter == BY_HAND:
        _check_rendezvous(nodes)
    elif process.nodes != nodes or (isinstance(devices, int) and process.processes != nodes * devices):
        raise InputError(
            f"{process.starter} has started {process.processes} processes on "
            f"{process.nodes} node{'s'[: process.nodes != 1]}: "
            f"trainer=ddp trainer.num_nodes={process.nodes} trainer.devices={per_node}"
        )
    elif process.starter == SRUN and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(f"srun: Lightning needs --ntasks-per-node={per_node}")
    return process._replace(nodes=nodes)


def _check_rendezvous(nodes: int) -> None:
    """Refuse missing or invalid variables that a user sets so that the processes of several nodes find each other.

    Raises:
        InputError: naming the variable.
    """
    missing = [name for name in RENDEZVOUS_VARIABLES if not os.environ.get(name)]
    if nodes != 1 and missing:
        raise InputError(
            f"trainer.num_nodes={nodes}: set {', '.join(missing)} on each node, or start it there with torchrun or "
            "srun (docs/nodes.md)"
        )
    node, port = os.environ.get("NODE_RANK", "0"), os.environ.get("MASTER_PORT", "0")
    if not node.isdecimal() or int(node) >= nodes:
        raise InputError(f"NODE_RANK={node}: trainer.num_nodes={nodes}, so it must be a number from 0 to {nodes - 1}")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"MASTER_PORT={port}: a port is a number from 1 to 65535")
