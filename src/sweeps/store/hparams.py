"""A sweep in TensorBoard's HParams tab: the settings that vary as columns, and each run's final metrics.

    tensorboard --logdir outputs/sweeps/NAME

The tab reads event files: one in each job's folder has the job's values, and the first job's tells the columns, too: in
the sweep's own folder it would be one more run, an empty one. The jobs do not know of them. (https://www.tensorflow.org/tensorboard/hyperparameter_tuning_with_hparams)
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from filelock import FileLock
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from src.storage.files import open_atomic, remove
from src.storage.records import DAMAGED
from src.sweeps.store.leaderboard import scalars
from src.sweeps.store.runs import Run, read_runs, said

EVENTS = "events.out.tfevents.0.hparams"  # sorts before a run's own file, whose name has a time
LARGEST = 3.4e38  # numbers here have 32 bits
FINAL = "final/"  # apart from the curves, whose last value is not that of the epoch that was kept
STATUSES = {
    "finished": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
    DAMAGED: api_pb2.STATUS_FAILURE,
    "interrupted": api_pb2.STATUS_FAILURE,
    "running": api_pb2.STATUS_RUNNING,
}  # one that waits has not ended in any way: unknown


def write_hparams(folder: Path) -> None:
    """Write what the HParams tab needs of the sweep in a folder, from its jobs; at any time, by any process.

    Numbers are columns of numbers and booleans of booleans, with nothing where the value is ``null``
    or the job has no such setting; all else, and what is mixed, is strings. Files that are right already stay.

    Raises:
        InputError: if there are no jobs.
    """
    with FileLock(folder / ".results.lock"):  # who reads last writes last
        runs = [run for run in read_runs(folder) if run.known]
        columns = [column(name, runs) for name in dict.fromkeys(name for run in runs for name in run.swept)]
        for run in runs:
            told = [experiment(columns, runs)] if run is runs[0] else []
            keep(run.folder / EVENTS, session(run, columns, told))
        remove(folder / EVENTS)  # of an earlier version


def column(name: str, runs: list[Run]) -> api_pb2.HParamInfo:
    """What is told of a setting: its type and the values that it takes."""
    told = api_pb2.HParamInfo(name=name, differs=True)
    given = [run.swept[name] for run in runs if name in run.swept]
    values = [value for value in given if value is not None]
    if values and all(isinstance(value, bool) for value in values):
        told.type = api_pb2.DATA_TYPE_BOOL
        told.domain_discrete.extend(sorted(set(values)))
    elif values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        told.type = api_pb2.DATA_TYPE_FLOAT64
        told.domain_interval.min_value, told.domain_interval.max_value = min(values), max(values)
    else:
        told.type = api_pb2.DATA_TYPE_STRING
        told.domain_discrete.extend(sorted(set(map(said, given))))
    return told


def experiment(columns: list[api_pb2.HParamInfo], runs: list[Run]) -> Summary.Value:
    """Return what is told of the sweep: which columns there are."""
    names = dict.fromkeys(name for run in runs for name in final(run))
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=FINAL + name), display_name=name)
        for name in sorted(names, key=lambda name: not name.startswith("val/"))
    ]
    told = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
    return noted(metadata.EXPERIMENT_TAG, experiment=told)


def session(run: Run, columns: list[api_pb2.HParamInfo], told: list[Summary.Value]) -> bytes:
    """Return the event file of a job: its settings, its metrics, how it ended, and what else is to be told in it."""
    changed = last_change(run.folder)
    start = SessionStartInfo(start_time_secs=changed - (run.metrics.get("seconds") or 0))
    for each in columns:
        value = run.swept.get(each.name)
        if each.type == api_pb2.DATA_TYPE_STRING and each.name in run.swept:
            start.hparams[each.name].string_value = said(value)
        elif each.type == api_pb2.DATA_TYPE_BOOL and value is not None:
            start.hparams[each.name].bool_value = value
        elif value is not None:
            start.hparams[each.name].number_value = value
    values = [*told, noted(metadata.SESSION_START_INFO_TAG, session_start_info=start)]
    values += [Summary.Value(tag=FINAL + name, simple_value=value) for name, value in final(run).items()]
    if status := STATUSES.get(run.status):
        end = SessionEndInfo(status=status, end_time_secs=changed)
        values.append(noted(metadata.SESSION_END_INFO_TAG, session_end_info=end))
    return event_file(values, changed, int(run.metrics.get("best_epoch") or 0))


def final(run: Run) -> dict[str, float]:
    """The metrics of the epoch that was kept, and the test's; those that are finite, as TensorBoard's numbers are."""
    names = [name for name in scalars(run.metrics) if name.startswith(("val/", "test/"))]
    return {name: value for name in names if (value := run.metrics[name]) is not None and abs(value) < LARGEST}


def last_change(folder: Path) -> float:
    """When a job's status changed last, in seconds since 1970."""
    path = next((path for name in ("status.json", "job.json") if (path := folder / name).exists()), folder)
    return path.stat().st_mtime


def noted(tag: str, **told: Any) -> Summary.Value:
    """One of the tab's messages as an event's value; it lies in the value's metadata."""
    message = HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **told)
    content = message.SerializeToString(deterministic=True)  # else equal messages differ in the order of settings
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=metadata.NULL_TENSOR)


def event_file(values: list[Summary.Value], time: float, step: int) -> bytes:
    """An event file with these values, all of one moment."""
    content = BytesIO()
    writer = RecordWriter(content)
    for event in (
        Event(wall_time=time, file_version="brain.Event:2"),
        Event(wall_time=time, step=step, summary=Summary(value=values)),
    ):
        writer.write(event.SerializeToString(deterministic=True))
    return content.getvalue()


def keep(path: Path, content: bytes) -> None:
    """Give a file this content; one that has it already is not touched."""
    if not path.is_file() or path.read_bytes() != content:
        with open_atomic(path) as file:
            file.write(content)
