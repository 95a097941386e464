"""The connection of this process to a Ray cluster, a running or a local one."""

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from src.core.errors import InputError
from src.sweeps.workers.pool import silence_fd

CONNECT_TIMEOUT = 5.0  # seconds for a cluster to answer at its address, and between two such checks
OBJECT_STORE_BYTES = (
    100 * 2**20
)  # bytes of Ray's object store; tasks return next to nothing, and Ray's minimum is 75 MiB
# Ray reads these variables when it is imported.
COMMON_VARIABLES = {"RAY_task_oom_retries": "0"}  # a job that ran out of memory would do so again and again
LOCAL_VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}  # the latter binds its ports to loopback
REMOTE_VARIABLES = {
    "RAY_NUM_REDIS_GET_RETRIES": "2",
    "RAY_gcs_server_request_timeout_seconds": "10",
}  # defaults: 20 and 60


def init_ray(address: str | None) -> Any:
    """Return the module `ray`, connected to a cluster until this process ends.

    Args:
        address: HOST:PORT of a running cluster; ``None``: start a local cluster, which ends with this process.

    Raises:
        InputError: if the connection fails.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"]
    if address:
        check_reachable(address)
        os.environ.update(COMMON_VARIABLES | REMOTE_VARIABLES)
    else:
        os.environ.update(COMMON_VARIABLES | LOCAL_VARIABLES, RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    settings = {} if address else _prepare_local_cluster()
    with (
        _preserve_sigterm_handler(),
        _explain_connection_error(address),
        silence_fd(2),
    ):  # Ray's native code writes to stderr
        _silence_ray(ray)
        ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    return ray


def _silence_ray(ray: Any) -> None:
    """Suppress Ray's messages about lost machines in the sweep's display; Ray has no option for it."""
    ray._private.worker.print_to_stdstream = lambda *words, **how: None


def _prepare_local_cluster() -> dict[str, Any]:
    """Return the arguments of ``ray.init`` for a local cluster; remove the cluster's folder when this process ends."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray-")

    def stop_cluster() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop_cluster)
    return {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder}


def check_reachable(address: str) -> None:
    """Check that a server answers at an address; Ray itself would retry for a long time.

    Raises:
        InputError: if none does.
    """
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        why = f"nothing answers there ({error}); is it running (ray status), and is this its address?"
        raise InputError(f"hydra.launcher.address={address}: {why}") from error


@contextmanager
def _preserve_sigterm_handler() -> Iterator[None]:
    """Preserve this process's SIGTERM handler, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread: there Ray does not replace the handler either
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _explain_connection_error(address: str | None) -> Iterator[None]:
    """Convert Ray's connection errors to an `InputError` with a one-line message.

    Raises:
        InputError: for any error that Ray raises.
    """
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, OSError, ValueError) as error:
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise InputError(f"{where}: {_describe_connection_error(error)}") from error


def _describe_connection_error(error: BaseException) -> str:
    """Return the message for a failed connection: its likely cause, else the error as one line."""
    text = f"{error} {error.__cause__ or ''}"
    if "oken" in text:
        return (
            "it requires the token that it was started with: RAY_AUTH_MODE=token and the token "
            "in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
    if "No node info found" in text:
        return "this machine is not part of the cluster; start the sweep on one that is (ray start --address=…)"
    return " ".join(text.split())
