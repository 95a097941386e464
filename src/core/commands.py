"""Read the arguments of commands, and format commands that the user can copy and run."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterable
from os import sep
from os.path import abspath, basename, dirname, join
from pathlib import Path
from typing import NoReturn


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
