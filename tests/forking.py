"""Processes forked from one that has imported everything: commands start at once, as the jobs of a sweep do.

``python -m tests.forking`` is the server: it reads requests from a socket, its standard input, and forks for each.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from src.sweeps.workers.worker import import_heavy_modules

MAX_REQUEST = 1 << 20  # bytes; arguments and environment
ROOT = Path(__file__).resolve().parent.parent


class ForkedProcess(subprocess.Popen[str]):
    """``python -m MODULE ARGUMENTS``, started by the server; it can be used as any other `subprocess.Popen`.

    It is a child of the server, which tells how it ended.
    """

    def _execute_child(self, args: Any, executable: Any, *how: Any) -> None:
        cwd, env, out, err = how[3], how[4], how[11], how[13]
        self._ended, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps({"arguments": args, "cwd": str(cwd), "environment": dict(env)}).encode()
        with theirs:
            socket.send_fds(_start_server(), [request], [out, err, theirs.fileno()])
        for end in (out, err):
            os.close(end)
        self.pid = int(self._ended.recv(64))

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:  # the test has failed: do not wait for what it would have done next
            self.kill()
        super().__exit__(kind, *error)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._ended], [], [], 0)[0]:
            return 0, 0
        status = self._ended.recv(64)
        return self.pid, int(status) if status else signal.SIGKILL  # the server is gone, with its children


@cache
def _start_server() -> socket.socket:
    """Start the server, once in a process; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # of packages elsewhere
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    with theirs:
        subprocess.Popen([sys.executable, "-m", "tests.forking"], stdin=theirs.fileno(), env=environment, cwd=ROOT)
    return ours


def _serve() -> dict[str, Any] | None:
    """Fork for each request; return it in the child, and ``None`` when nobody can ask any more."""
    requests, running = socket.socket(fileno=0), dict[int, socket.socket]()
    for pid, child, request in _accept_requests(requests, running):
        if pid:
            running[pid] = child
            child.send(str(pid).encode())
        else:
            return request
    return None


def _accept_requests(
    requests: socket.socket, running: dict[int, socket.socket]
) -> Iterator[tuple[int, socket.socket, dict[str, Any]]]:
    """Yield once in the server and once in its child, where the number is 0; meanwhile tell how others ended."""
    wake, signalled = os.pipe2(os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signalled)
    watched: list[Any] = [requests, wake]
    while True:
        ready = select.select(watched, [], [])[0]
        if wake in ready:
            os.read(wake, 1024)
            _tell_ends(running)
        if requests in ready:
            request, handles, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
            if not request:
                return
            out, err, told = handles
            if pid := os.fork():
                yield pid, socket.socket(fileno=told), {}
            else:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                null = os.open(os.devnull, os.O_RDONLY)
                for end, number in ((null, 0), (out, 1), (err, 2)):
                    os.dup2(end, number)
                for end in (null, out, err, told, wake, signalled, *(each.fileno() for each in running.values())):
                    os.close(end)
                yield 0, requests, json.loads(request)
            for end in (out, err):
                os.close(end)


def _tell_ends(running: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(found[0]) as told, contextlib.suppress(OSError):  # nobody may wait for it
                told.send(str(found[1]).encode())


def _import_all() -> None:
    """Import what commands import; no thread may have been started."""
    import_heavy_modules()
    atexit.unregister(os._exit)  # a command ends as it would alone
    atexit.register(gc.unfreeze)  # some libraries report frozen objects as leaks at exit


def _become(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be what ``python -m MODULE ARGUMENTS`` is."""
    _, _, module, *rest = arguments
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    paths = [str(Path(path).resolve()) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [cwd, *paths, *(path for path in sys.path[1:] if path != str(ROOT))]
    # The server's own streams remember whether one can seek in what was open there.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    tempfile.tempdir = None  # TMPDIR may be another
    sys.orig_argv[:] = arguments
    sys.argv[:] = ["-m", *rest]
    runpy._run_module_as_main(module)  # type: ignore[attr-defined]


if __name__ == "__main__":
    _import_all()
    if asked := _serve():
        _become(asked["arguments"], asked["cwd"], asked["environment"])
