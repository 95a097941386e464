"""What processes learn from their environment variables: their share of a machine, their place in a run."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.storage.records import read_status

SHARE_OF_CORES = "THUNDERHEAD_CORES"  # the CPU cores of a process that others work beside
SHARE_OF_GPU = "THUNDERHEAD_GPU_SHARE"  # of its memory, that a process may take; unset: all that is free
TORCHRUN, SRUN, BY_HAND = "torchrun", "srun", ""
# What each sets: the machine's number and the process's number on it, how many machines and processes there are.
VARIABLES = {
    TORCHRUN: ("GROUP_RANK", "LOCAL_RANK", "GROUP_WORLD_SIZE", "WORLD_SIZE"),
    SRUN: ("SLURM_NODEID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"),
    BY_HAND: ("NODE_RANK", "LOCAL_RANK", "", ""),  # of Lightning, too, which starts a machine's further processes
}
MEETING = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a person sets


def cores() -> int:
    """CPU cores this process may use."""
    if (share := os.environ.get(SHARE_OF_CORES, "")).isdigit():
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def memory() -> int:
    """Return the bytes of memory of this machine, or of its part that this process may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        with suppress(OSError, ValueError):
            found.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(found)


class Place(NamedTuple):
    """Where a process stands among those that train one model together.

    ``node`` is its machine's number and ``local`` its own there, both from 0; of ``nodes`` machines
    and ``processes`` in all (0: not told). ``starter`` is what started it on each machine.
    """

    node: int
    local: int
    nodes: int
    processes: int
    starter: str

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks for all."""
        return self.node == self.local == 0

    @property
    def meets(self) -> bool:
        """Whether it meets processes that something else than the first one has started."""
        return self.starter != BY_HAND or self.nodes > 1

    def __str__(self) -> str:
        return f"process {self.local}" + (f" of node {self.node}" if self.node else "")


ALONE = Place(0, 0, 1, 1, BY_HAND)


def place() -> Place:
    """This process's place, from what started it."""
    starter = BY_HAND
    if number("SLURM_STEP_NUM_TASKS") > 1:  # a job's script is no step, and a shell is one task
        starter = SRUN
    if "TORCHELASTIC_RUN_ID" in os.environ:  # srun may have started torchrun
        starter = TORCHRUN
    node, local, nodes, processes = (number(name) for name in VARIABLES[starter])
    return Place(node, local, nodes, processes, starter)


def number(name: str) -> int:
    """An environment variable's number; 0 if it has none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def together(trainer: Mapping[str, Any]) -> bool:
    """Whether a run's settings let several processes train one model."""
    parts = (trainer.get("strategy", "auto"), trainer.get("num_nodes", 1), trainer.get("devices", 1))
    return parts != ("auto", 1, 1)


def place_in(trainer: Mapping[str, Any]) -> Place:
    """This process's place in a run with these settings of its trainer.

    Tasks of Slurm that train a model each are all the first of their runs.

    Raises:
        InputError: if processes were started otherwise than the settings say, so that they would
            wait for each other for ever.
    """
    here = place()
    nodes, devices = trainer.get("num_nodes", 1), trainer.get("devices", 1)
    nodes = nodes if isinstance(nodes, int) and nodes > 0 else 1  # what is wrong with it, `check` tells
    if not together(trainer) and not (here.starter == TORCHRUN and here.processes > 1):
        return ALONE
    each = here.processes // max(1, here.nodes)
    if here.starter == BY_HAND:
        check_meeting(nodes)
    elif here.nodes != nodes or (isinstance(devices, int) and here.processes != nodes * devices):
        raise InputError(
            f"{here.starter} has started {here.processes} processes on {here.nodes} node{'s'[: here.nodes != 1]}: "
            f"trainer=ddp trainer.num_nodes={here.nodes} trainer.devices={each}"
        )
    elif here.starter == SRUN and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(f"srun: Lightning needs --ntasks-per-node={each} to be given")
    return here._replace(nodes=nodes)


def check_meeting(nodes: int) -> None:
    """Refuse variables set by hand by which the processes of several machines would not find each other."""
    missing = [name for name in MEETING if not os.environ.get(name)]
    if nodes != 1 and missing:
        raise InputError(
            f"trainer.num_nodes={nodes}: set {', '.join(missing)} on each node, or start it there with torchrun or "
            "srun (docs/nodes.md)"
        )
    node, port = os.environ.get("NODE_RANK", "0"), os.environ.get("MASTER_PORT", "0")
    if not node.isdecimal() or int(node) >= nodes:
        raise InputError(f"NODE_RANK={node}: trainer.num_nodes={nodes}, so it is a number from 0 to {nodes - 1}")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"MASTER_PORT={port}: a port is a number from 1 to 65535")


def agree(config: Mapping[str, Any], here: Place) -> None:
    """Refuse what processes that do not come from one another would each decide for themselves.

    Raises:
        InputError: if a new run has no name or no seed, or its name is taken.
    """
    if not here.meets or config.get("resume") is not None:
        return
    for setting, otherwise in (("name", "have a time stamp of its own"), ("seed", "draw its own")):
        if config.get(setting, 0) is None:
            raise InputError(f"on several nodes a run needs {setting}=…: each of them would {otherwise}")
    folder = config["hydra"]["run"]["dir"]
    before = read_status(Path(folder))["status"]
    if not here.first and before not in ("waiting", "running"):  # the first one sees so, too, and ends
        raise InputError(f"{folder} is there already: choose another name=…")
