"""Processes that train one model together: where they meet, what they share, what is told when one is lost."""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from src.core.errors import InputError
from src.core.processes import SRUN, TORCHRUN, place_in

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"


class _OneMachine(ClusterEnvironment):
    """Keep what the processes of one machine open for each other to its loopback interface."""

    store: distributed.TCPStore | None = None

    @property
    def main_address(self) -> str:
        """Return the loopback address; each process asks for it right before it meets the others."""
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE  # else: where the host's name leads
        os.environ["NCCL_SOCKET_IFNAME"] = f"={LOOPBACK_INTERFACE}"  # else: any interface but this one
        if self.global_rank() == 0 and self.store is None:
            self.store = _open_store(self.main_port)
        return LOOPBACK


class OwnProcesses(_OneMachine, LightningEnvironment):
    """Processes of one machine that Lightning starts."""


class SlurmTasks(_OneMachine, SLURMEnvironment):
    """Processes of one machine that srun starts."""


def _open_store(port: int) -> distributed.TCPStore:
    """Return a store that listens on the loopback address alone.

    torch would have its own listen on all addresses; it takes one that this process has at the port already.

    Raises:
        InputError: if something else listens there.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"MASTER_PORT={port}: the processes of this run cannot meet there ({why})") from error
    return distributed.TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )


def meeting_place(trainer: Mapping[str, Any]) -> ClusterEnvironment:
    """What tells Lightning where the processes of a run meet, and which of them this one is."""
    here = place_in(trainer)
    if here.starter == TORCHRUN:
        return TorchElasticEnvironment()  # its store is torchrun's
    if here.starter == SRUN:  # auto_requeue: its checkpoints would stand beside ours
        return (SlurmTasks if here.nodes == 1 else SLURMEnvironment)(auto_requeue=False)
    return OwnProcesses() if here.nodes == 1 else LightningEnvironment()


def refuse_copies(trainer: Trainer) -> None:
    """Refuse processes that are copies of this one: what they have trained and written down ends with them.

    Raises:
        InputError: if training would start such.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        how = "use trainer.strategy=ddp, which starts the command again for each process; in a notebook use one device"
        raise InputError(
            f"trainer.strategy: copies of this process (spawn, fork) keep the run's results to themselves: {how}"
        )


class Company(Callback):
    """Looks after a run of several processes: its folder is shared, and a request to stop ends them all.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            trainer._signal_connector._sigterm_notifier_fn = partial(note_stop, trainer)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.folder / "status.json").is_file():  # all have met by now
            raise InputError(f"{self.folder} is not the one of node 0: paths.outputs must be storage that all share")


def note_stop(trainer: Trainer, signum: int, frame: FrameType | None) -> None:
    """On SIGTERM: before its next batch the first process tells all that it has been asked to stop.

    Lightning's own handler would tell them at once, by a broadcast that nobody expects: they hang.
    """
    trainer._signal_connector.received_sigterm = True
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signum)


@contextmanager
def in_company(trainer: Trainer) -> Iterator[None]:
    """Say where the nodes meet; when another process is lost, end with one line.

    Raises:
        InputError: if processes cannot meet, or one of them has ended.
    """
    place = getattr(trainer.strategy, "cluster_environment", None)
    where = f"{place.main_address}:{place.main_port}" if place and trainer.num_nodes > 1 else "this machine"
    if trainer.num_nodes > 1 and trainer.local_rank == 0:
        log.info("node %d: waiting for all %d nodes at %s", trainer.node_rank, trainer.num_nodes, where)
    try:
        yield
    except RuntimeError as error:
        if trainer.received_sigterm:  # the others, too, and they have ended first
            raise SIGTERMException from error
        text = re.sub(r"\[/\S+\] ", "", " ".join(str(error).split())).split(". ")[0]  # without the place in its source
        if isinstance(error, (distributed.DistNetworkError, distributed.DistStoreError)):
            raise InputError(f"the processes of this run do not meet at {where}: {text}") from error
        if "connectFullMesh" in text:
            raise InputError(f"set GLOO_SOCKET_IFNAME to each node's interface to the others ({text})") from error
        if "gloo/transport" in str(error) or isinstance(error, distributed.DistBackendError):
            raise InputError(f"another process of this run has ended, its own output says why ({text})") from error
        raise
