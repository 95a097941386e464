"""Distributed runs, in which several processes train one model: rendezvous, shared folder and lost ranks."""

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
from src.core.processes import SRUN, TORCHRUN, resolve_process
from src.storage.status import STATUS_FILE

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"


class _LoopbackEnvironment(ClusterEnvironment):
    """Cluster environment of one machine, whose processes communicate over the loopback interface only."""

    store: distributed.TCPStore | None = None

    @property
    def main_address(self) -> str:
        """Return the loopback address, and set up the interface; Lightning reads it right before the rendezvous."""
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE  # default: the interface of the host's name
        os.environ["NCCL_SOCKET_IFNAME"] = f"={LOOPBACK_INTERFACE}"  # default: any interface except loopback
        if self.global_rank() == 0 and self.store is None:
            self.store = _open_store(self.main_port)
        return LOOPBACK


class LocalLightningEnvironment(_LoopbackEnvironment, LightningEnvironment):
    """Cluster environment of processes that Lightning starts on one machine."""


class LocalSlurmEnvironment(_LoopbackEnvironment, SLURMEnvironment):
    """Cluster environment of processes that srun starts on one machine."""


def _open_store(port: int) -> distributed.TCPStore:
    """Return a store that listens on the loopback address only.

    torch's own store would listen on all addresses; torch uses this one since it exists on the port already.

    Raises:
        InputError: if another process listens on the port.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"MASTER_PORT={port}: the processes of this run cannot connect there ({why})") from error
    return distributed.TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )


def make_cluster_environment(trainer: Mapping[str, Any]) -> ClusterEnvironment:
    """Return the cluster environment: it gives Lightning the rendezvous address and this process's rank."""
    here = resolve_process(trainer)
    if here.starter == TORCHRUN:
        return TorchElasticEnvironment()  # torchrun provides the store
    if here.starter == SRUN:
        # With auto_requeue Lightning would write its own checkpoints next to this project's.
        return (LocalSlurmEnvironment if here.nodes == 1 else SLURMEnvironment)(auto_requeue=False)
    return LocalLightningEnvironment() if here.nodes == 1 else LightningEnvironment()


def refuse_forked_processes(trainer: Trainer) -> None:
    """Refuse strategies that fork or spawn processes, whose results would be lost when they exit.

    Raises:
        InputError: if the trainer has such a strategy.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        how = "use trainer.strategy=ddp, which starts the command again for each process; in a notebook use one device"
        raise InputError(f"trainer.strategy: processes started by spawn or fork do not return the run's results: {how}")


class DistributedGuard(Callback):
    """Callback for distributed runs: all ranks must share the run's folder, and a SIGTERM stops all of them.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            trainer._signal_connector._sigterm_notifier_fn = partial(_on_sigterm, trainer)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.folder / STATUS_FILE).is_file():  # rank 0 has written it before the rendezvous
            raise InputError(
                f"{self.folder} is not node 0's folder: paths.outputs must be on storage that all nodes share"
            )


def _on_sigterm(trainer: Trainer, signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: set a flag that rank 0 broadcasts to all ranks before its next batch.

    Lightning's own handler would broadcast immediately, which the other ranks do not expect: all would hang.
    """
    trainer._signal_connector.received_sigterm = True
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signum)


@contextmanager
def explain_lost_ranks(trainer: Trainer) -> Iterator[None]:
    """Log the rendezvous address, and raise a one-line error if another rank is lost.

    Raises:
        InputError: if the ranks cannot connect, or one of them has ended.
    """
    cluster = getattr(trainer.strategy, "cluster_environment", None)
    where = f"{cluster.main_address}:{cluster.main_port}" if cluster and trainer.num_nodes > 1 else "this machine"
    if trainer.num_nodes > 1 and trainer.local_rank == 0:
        log.info("node %d: waiting for all %d nodes at %s", trainer.node_rank, trainer.num_nodes, where)
    try:
        yield
    except RuntimeError as error:
        if trainer.received_sigterm:  # the other ranks received it too and ended first
            raise SIGTERMException from error
        # Drop the position in the library's source code that precedes the message.
        text = re.sub(r"\[/\S+\] ", "", " ".join(str(error).split())).split(". ")[0]
        if isinstance(error, (distributed.DistNetworkError, distributed.DistStoreError)):
            raise InputError(f"the processes of this run could not connect at {where}: {text}") from error
        if "connectFullMesh" in text:
            raise InputError(f"set GLOO_SOCKET_IFNAME to each node's interface to the others ({text})") from error
        if "gloo/transport" in str(error) or isinstance(error, distributed.DistBackendError):
            raise InputError(f"another process of this run has ended, its own output says why ({text})") from error
        raise
