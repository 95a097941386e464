"""Read and write the status of a run or a job: ``status.json`` in its folder."""

from pathlib import Path
from typing import Any

from src.storage import schema
from src.storage.files import write_json
from src.storage.schema import DamagedError

STATUS_FILE, METRICS_FILE = "status.json", "metrics.json"
DAMAGED = "damaged"  # the status of a run whose status.json or metrics.json is damaged or missing
Status = dict[str, Any]  # the status, the reason in a word or two and the message, a sentence


def make_status(status: str, reason: str | None = None, message: str | None = None) -> Status:
    return {"status": status, "reason": reason, "message": message}


def make_failed_status(reason: str, message: str) -> Status:
    return make_status("failed", reason, message)


def write_status(folder: Path, status: Status) -> None:
    write_json(folder / STATUS_FILE, status)


def read_status(folder: Path) -> Status:
    """Return the status of the run in a folder, see `read_results`."""
    return read_results(folder)[0]


def read_results(folder: Path) -> tuple[Status, dict[str, Any]]:
    """Return the status of the run in a folder and its metrics, which are empty before the first epoch ends.

    If ``status.json`` or ``metrics.json`` is damaged, the status is "damaged", the reason is the names of the files,
    and the message describes each fault; damaged metrics are empty.
    """
    faults: dict[str, str] = {}
    status = read_or_note(folder / STATUS_FILE, schema.STATUS, faults)
    metrics = read_or_note(folder / METRICS_FILE, schema.check_metrics, faults)
    if not faults and status is None and metrics is not None:
        faults[STATUS_FILE] = f"{folder / STATUS_FILE} is missing, although {METRICS_FILE} exists"
    if not faults and metrics is None and status is not None and status["status"] == "finished":
        faults[METRICS_FILE] = f"{folder / METRICS_FILE} is missing, although the run has finished"
    if faults:
        return make_status(DAMAGED, ", ".join(faults), "; ".join(faults.values())), metrics or {}
    status = status or {"status": "waiting"}
    return make_status(status["status"], status.get("reason"), status.get("message")), metrics or {}


def read_or_note(path: Path, check: schema.Check, faults: dict[str, str]) -> dict[str, Any] | None:
    """Return a file's content; ``None`` if it is missing or damaged.

    A message about the damage is added to ``faults`` under the file's name.
    """
    try:
        return schema.read_checked(path, check)
    except DamagedError as error:
        faults[path.name] = str(error)
        return None
