"""The pinned dependencies: ``python -m tests.dependencies lock`` writes their hashes, ``audit`` asks for known holes.

The lock is a requirements file with hashes, the one kind that every pip installs from. It is for one platform, and so
is the standard's pylock.toml as pip writes it, which besides needs the addresses of the files: they tell where a mirror
is.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / f"lock-{sysconfig.get_platform()}-{sys.implementation.cache_tag}.txt"
AUDIT = ROOT / ".venv" / "audit"  # an environment of its own, so that the project's stays what is locked


def lock() -> None:
    """Write the lock of this platform: each file that pip would install, constrained, with its SHA-256."""
    what = ["--ignore-installed", "--constraint", "constraints.txt", ".[dev]"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", *what]
    report = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    parts = [
        part for part in report["install"] if "dir_info" not in part["download_info"]
    ]  # without the project itself
    head = f"# What `make install-locked` installs on {LOCK.stem.removeprefix('lock-')}; written by `make lock`.\n"
    LOCK.write_text(head + "".join(sorted(map(line_of, parts), key=str.lower)))


def line_of(part: dict[str, Any]) -> str:
    """Return the lock's line for a part of pip's report."""
    name, version = part["metadata"]["name"], part["metadata"]["version"]
    return f"{name}=={version} --hash=sha256:{part['download_info']['archive_info']['hashes']['sha256']}\n"


def audit(command: Sequence[str]) -> None:
    """Ask for known holes in what is locked; ``command`` is pip-audit's.

    Raises:
        SystemExit: if there are any, or if it could not be asked, which is not the same as that there are none.
    """
    strict = ["--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--requirement", str(LOCK)]
    done = subprocess.run([*command, *strict], capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout:
        raise SystemExit(f"not audited: {last_line(done.stderr)}")
    print(done.stdout or last_line(done.stderr))
    sys.exit(done.returncode)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def pip_audit() -> list[str]:
    """Install pip-audit, and return its command."""
    python = str(AUDIT / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(AUDIT)],
        [python, "-m", "pip", "install", "--quiet", "pip-audit"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"not audited: pip-audit cannot be installed ({last_line(done.stderr)})")
    return [python, "-m", "pip_audit"]


if __name__ == "__main__":
    lock() if sys.argv[1:] == ["lock"] else audit(pip_audit())
