"""Commands as a user can type them next: by the program that started this one, be its environment active or not."""

import shlex
import shutil
import sys
from collections.abc import Iterable
from os import sep
from os.path import abspath, basename, dirname, join
from pathlib import Path


def spell_command(module: str, arguments: Iterable[str] = ()) -> str:
    """Return the command that runs a module: ``.venv/bin/python -m src.eval run=…`` where it was typed so."""
    return shlex.join([_python(), "-m", module, *arguments])


def spell_again(arguments: Iterable[str]) -> str:
    """Return the command that starts this program again with other arguments, all after the program's name."""
    return shlex.join([_python(), *arguments])


def spell_tensorboard(folder: str) -> str:
    """Return the command that shows a folder in TensorBoard."""
    if Path(sys.executable).with_name("tensorboard").exists():
        return shlex.join([join(dirname(_python()), "tensorboard"), "--logdir", folder])
    return spell_command("tensorboard.main", ["--logdir", folder])


def _python() -> str:
    """Return Python as it was typed; by its name alone where that finds the same one."""
    typed = sys.orig_argv[0]
    found = shutil.which(name := basename(typed))
    is_same = found is not None and dirname(abspath(found)) == dirname(sys.executable)
    return name if is_same or sep not in typed else typed
