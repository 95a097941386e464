"""Read the arguments of commands, format commands that the user can copy and run, and run them from Python."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from os import sep
from os.path import abspath, basename, dirname, join
from pathlib import Path
from typing import NoReturn

from src.core.errors import InputError

ERROR = "error: "  # how the line begins that says why a command failed


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line and exits with status 1."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}; {self.prog} --help shows how it is used")


def format_command(module: str, arguments: Iterable[str] = ()) -> str:
    """Return the command that runs a module, such as ``.venv/bin/python -m src.eval run=…``."""
    return shlex.join([_find_python(), "-m", module, *arguments])


def format_restart_command(arguments: Iterable[str]) -> str:
    """Return the command that starts this Python again with these arguments."""
    return shlex.join([_find_python(), *arguments])


def format_tensorboard_command(folder: str) -> str:
    """Return the command that shows a folder in TensorBoard."""
    if Path(sys.executable).with_name("tensorboard").exists():
        return shlex.join([join(dirname(_find_python()), "tensorboard"), "--logdir", folder])
    return format_command("tensorboard.main", ["--logdir", folder])


def _find_python() -> str:
    """Return the Python executable as the user typed it, or its bare name where PATH leads to the same one."""
    typed = sys.orig_argv[0]
    found = shutil.which(name := basename(typed))
    is_same = found is not None and dirname(abspath(found)) == dirname(sys.executable)
    return name if is_same or sep not in typed else typed


def run_command(module: str, arguments: Iterable[str]) -> None:
    """Run ``python -m MODULE`` of this project in a separate process, and print what it prints.

    Raises:
        InputError: if it fails, with its error.
        KeyboardInterrupt: on Ctrl-C, after the process has ended in good order.
    """
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, last = [sys.executable, "-m", module, *arguments], ""
    environment, output = {**os.environ, "PYTHONPATH": path}, subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                if not line.startswith(ERROR):
                    print(line, end="", flush=True)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode:
        raise InputError(last.removeprefix(ERROR))
