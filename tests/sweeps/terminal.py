"""Scripts in processes of their own, on a terminal whose screen can be looked at."""

import os
import re
import subprocess
import sys
import termios
import threading
from pathlib import Path

from tests.command_line import PROCESS_TIMEOUT, ROOT

# What an environment may say of terminals and output.
TERMINAL_VARIABLES = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
TERMINAL_VARIABLES |= {"PYTHONIOENCODING", "PYTHONUNBUFFERED"}


class Terminal:
    """A terminal's screen: what stands in its rows after what was written to it."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.row, self.column = columns, [""], 0, 0
        self.cursor_shown, self.colours = True, set[str]()

    @property
    def shown(self) -> list[str]:
        """The rows as one sees them, to the last that is not empty."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip().split("\n")

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\x1b\].*?\x07|.", text, re.DOTALL):
            if part.startswith("\x1b["):
                self.control(part[2:-1], part[-1])
            elif part.startswith("\x1b]columns "):
                self.resize(int(part.removeprefix("\x1b]columns ")[:-1]))
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self.down()
            else:
                self.put(part)

    def put(self, sign: str) -> None:
        assert sign.isprintable(), repr(sign)
        if self.column == self.columns:
            self.down()
            self.column = 0
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + sign + row[self.column + 1 :]
        self.column += 1

    def down(self) -> None:
        self.row += 1
        self.rows += [""] * (self.row == len(self.rows))

    def control(self, value: str, kind: str) -> None:
        if kind == "A":
            self.row -= int(value)
            assert self.row >= 0
        elif kind == "K":
            assert value == "2"
            self.rows[self.row] = ""
        elif kind == "m":
            self.colours |= set(value.split(";"))
        else:
            assert value == "?25" and kind in "hl", (value, kind)
            self.cursor_shown = kind == "h"

    def resize(self, columns: int) -> None:
        """Break the rows that became too long, as terminals do."""
        broken = [[row[at : at + columns] for at in range(0, max(len(row), 1), columns)] for row in self.rows]
        self.row = sum(map(len, broken[: self.row + 1])) - 1
        self.columns, self.rows = columns, [part for parts in broken for part in parts]
        self.column = len(self.rows[self.row])  # the cursor stands behind what was written last


def spawn_script(script: str, cwd: Path, stdout: int, **environment: str) -> "subprocess.Popen[str]":
    """A process that runs a script in an environment that says nothing of terminals."""
    given = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**given, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm-256color", **environment},
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_on_terminal(script: str, cwd: Path, columns: int = 80, rows: int = 24, **environment: str) -> Terminal:
    """What a terminal shows after a script, whatever its end."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    with spawn_script(script, cwd, theirs, **environment) as process:
        os.close(theirs)
        patience = threading.Timer(PROCESS_TIMEOUT, process.kill)
        patience.start()
        written = b"".join(iter(lambda: read_chunk(ours), b""))
        patience.cancel()
        errors = process.communicate()[1]
    os.close(ours)
    assert not errors or errors.endswith("KeyboardInterrupt\n"), errors
    terminal = Terminal(columns)
    terminal.write(written.decode(environment.get("PYTHONIOENCODING", "utf-8")))
    return terminal


def read_chunk(descriptor: int) -> bytes:
    """What was written to a terminal since; nothing when all who could write have gone."""
    try:
        return os.read(descriptor, 65536)
    except OSError:  # that is how Linux says it
        return b""
