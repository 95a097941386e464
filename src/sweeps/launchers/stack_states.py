"""The files with the states of unfinished stacks, in the folder ``stacks`` of a sweep."""

import hashlib
import os
import shutil
from pathlib import Path

from src.core.errors import InputError
from src.storage.files import remove_file
from src.sweeps.store.jobs import Job, read_jobs

STATES_FOLDER = "stacks"


def make_state_path(folder: Path, jobs: list[Job]) -> Path:
    """Return the path of the file for the state of a stack of these jobs, in a sweep's folder."""
    name = hashlib.sha256("".join(job.identity for job in jobs).encode()).hexdigest()[:12]
    return folder / STATES_FOLDER / f"{jobs[0].number}-{jobs[-1].number}_{name}.ckpt"


def move_to_state(source: Path | None, state: Path) -> None:
    """Make a file the state that a stack resumes from.

    Args:
        source: the file that its jobs resume from, which stays as it is for jobs that are not among them; ``None``:
            they start.
        state: the file that the stack will write.
    """
    if source == state:
        return
    remove_file(state)  # an existing state belongs to jobs that have been reset, or moved on, since
    if source is not None:
        try:
            os.link(source, state)  # a state is replaced as a whole, so that the other name keeps the old content
        except OSError:  # a file system without hard links
            shutil.copyfile(source, state)


def remove_unused_states(folder: Path) -> None:
    """Remove the states in a sweep's folder that no unfinished job resumes from."""
    if states := set((folder / STATES_FOLDER).glob("*.ckpt")):
        for state in states - {job.stack for job in read_jobs(folder) if job.status["status"] != "finished"}:
            remove_file(state)


def find_damaged_states(states: list[Path]) -> list[str | None]:
    """Return for each file with a stack's state an error message, or ``None`` if it is valid.

    It imports torch: call it in a subprocess.
    """
    from src.storage.tensors import open_verified

    def find_damage(state: Path) -> str | None:
        try:
            with open_verified(state):
                return None
        except InputError as error:
            return str(error)

    return [find_damage(state) for state in states]
