"""The commands that are printed can be typed as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.core.commands import format_command, format_restart_command, format_tensorboard_command
from tests.command_line import ROOT


@pytest.mark.parametrize(
    ("typed", "path", "python", "tensorboard"),
    [
        ("python", "", "python", "tensorboard"),
        ("python3", "", "python3", "tensorboard"),
        ("{bin}/python", "", "{bin}/python", "{bin}/tensorboard"),
        ("{bin}/python", "{bin}", "python", "tensorboard"),
        ("a b/bin/python", "", "'a b/bin/python'", "'a b/bin/tensorboard'"),
    ],
)
def test_commands_use_program_as_typed(
    typed: str, path: str, python: str, tensorboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.path.dirname(sys.executable)
    monkeypatch.setattr(sys, "orig_argv", [typed.format(bin=folder), "-m", "src.train"])
    monkeypatch.setenv("PATH", path.format(bin=folder))
    assert format_command("src.eval", ["run=a b"]) == f"{python.format(bin=folder)} -m src.eval 'run=a b'"
    assert format_restart_command(["-m", "src.train"]) == f"{python.format(bin=folder)} -m src.train"
    assert format_tensorboard_command("outputs") == f"{tensorboard.format(bin=folder)} --logdir outputs"


def test_printed_hints_work_without_activated_environment(tmp_path: Path) -> None:
    """The commands that a run prints can be typed as they are."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}

    def shell(command: str) -> str:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = shell(".venv/bin/python -m src.train callbacks=none trainer.max_epochs=1")
    hints = dict(re.findall(r"^  ([a-z ]+): +(\S.*)$", told, re.MULTILINE))
    assert hints["look at it"] == ".venv/bin/tensorboard --logdir outputs"
    assert "best.ckpt" in shell(f"test -x {hints['look at it'].split()[0]} && {hints['evaluate it']}")
    assert hints["train longer"].startswith(".venv/bin/python -m src.train resume=outputs/runs/")
    assert ".venv/bin/python -m src.train model=cnn" in shell(".venv/bin/python -m src.train --help")
