"""A short part of ``make chaos ARGS=disk``: a disk that fails is told in one line, and nothing is lost."""

import errno
import random
from pathlib import Path

import pytest

from tests.chaos.disk import COMMANDS, Stage


@pytest.mark.parametrize("command", COMMANDS[:4:2], ids=lambda command: command.name)
def test_disk_fault_loses_nothing(command: object, tmp_path: Path) -> None:
    """A disk fault is reported in one line, and no saved result is lost."""
    stage = Stage(command, tmp_path)
    assert stage.operations > 20
    chance = random.Random(0)
    for fault in (errno.ENOSPC, errno.EROFS, errno.EMFILE):
        for number in chance.sample(range(stage.operations), 2):
            attempt = stage.attempt(number, fault)
            assert (attempt.wrong, attempt.lost) == (None, None), (attempt.failed, fault)
