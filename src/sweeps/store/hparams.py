"""A sweep in TensorBoard's HParams tab: the settings that vary as columns, and each run's final metrics.

    tensorboard --logdir outputs/sweeps/NAME

The tab reads event files. Each job's folder has one with the job's values; the first job's lists the columns, too,
because a file in the sweep's folder would show as another, empty run. The files are written here, not by the jobs.
(https://www.tensorflow.org/tensorboard/hyperparameter_tuning_with_hparams)
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from src.core.formatting import format_setting_value
from src.storage.files import open_atomic, remove_file
from src.storage.status import DAMAGED, STATUS_FILE
from src.sweeps.store.jobs import JOB_FILE
from src.sweeps.store.results import find_scalar_metrics, lock_results
from src.sweeps.store.runs import Run, read_runs

EVENT_FILE = "events.out.tfevents.0.hparams"  # sorts before the run's event file, whose name has a time
MAX_VALUE = 3.4e38  # TensorBoard stores 32-bit floats
FINAL_PREFIX = "final/"  # separate from the curves, whose last value is not that of the best epoch
# A waiting job has no entry: its status is unknown to TensorBoard.
STATUSES = {
    "finished": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
    DAMAGED: api_pb2.STATUS_FAILURE,
    "interrupted": api_pb2.STATUS_FAILURE,
    "running": api_pb2.STATUS_RUNNING,
}


def write_hparams(folder: Path, runs: list[Run] | None = None) -> None:
    """Write the event files that show the sweep in a folder in the HParams tab.

    It may be called at any time and by any process. A setting with only numbers becomes a column of numbers, one with
    only booleans a column of booleans, empty where the value is ``null`` or the job lacks the setting. Any other
    setting becomes a column of strings. Files that are up to date are not written again.

    Args:
        folder: the sweep's folder.
        runs: its runs, read while the caller holds `lock_results`; ``None``: they are read now.

    Raises:
        InputError: if there are no jobs.
    """
    if runs is None:
        with lock_results(folder):
            write_hparams(folder, read_runs(folder))
        return
    known = [run for run in runs if run.is_known]
    columns = [_build_column(name, known) for name in dict.fromkeys(name for run in known for name in run.swept)]
    for run in known:
        extra = [_build_experiment(columns, known)] if run is known[0] else []
        _write_if_changed(run.folder / EVENT_FILE, _encode_session(run, columns, extra))
    remove_file(folder / EVENT_FILE)  # an earlier version wrote it


def _build_column(name: str, runs: list[Run]) -> api_pb2.HParamInfo:
    """Describe a setting for the tab: its type and its values."""
    info = api_pb2.HParamInfo(name=name, differs=True)
    with_nulls = [run.swept[name] for run in runs if name in run.swept]
    values = [value for value in with_nulls if value is not None]
    if values and all(isinstance(value, bool) for value in values):
        info.type = api_pb2.DATA_TYPE_BOOL
        info.domain_discrete.extend(sorted(set(values)))
    elif values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(values), max(values)
    else:
        info.type = api_pb2.DATA_TYPE_STRING
        info.domain_discrete.extend(sorted(set(map(format_setting_value, with_nulls))))
    return info


def _build_experiment(columns: list[api_pb2.HParamInfo], runs: list[Run]) -> Summary.Value:
    """Describe the sweep for the tab: its columns of settings and metrics."""
    names = dict.fromkeys(name for run in runs for name in _get_final_metrics(run))
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=FINAL_PREFIX + name), display_name=name)
        for name in sorted(names, key=lambda name: not name.startswith("val/"))
    ]
    message = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
    return _wrap_plugin_message(metadata.EXPERIMENT_TAG, experiment=message)


def _encode_session(run: Run, columns: list[api_pb2.HParamInfo], extra_values: list[Summary.Value]) -> bytes:
    """Return the event file of a job: the values in ``extra_values``, its settings, its metrics and its status."""
    changed = _read_change_time(run.folder)
    start = SessionStartInfo(start_time_secs=changed - (run.metrics.get("seconds") or 0))
    for info in columns:
        value = run.swept.get(info.name)
        if info.type == api_pb2.DATA_TYPE_STRING and info.name in run.swept:
            start.hparams[info.name].string_value = format_setting_value(value)
        elif info.type == api_pb2.DATA_TYPE_BOOL and value is not None:
            start.hparams[info.name].bool_value = value
        elif value is not None:
            start.hparams[info.name].number_value = value
    values = [*extra_values, _wrap_plugin_message(metadata.SESSION_START_INFO_TAG, session_start_info=start)]
    values += [
        Summary.Value(tag=FINAL_PREFIX + name, simple_value=value) for name, value in _get_final_metrics(run).items()
    ]
    if status := STATUSES.get(run.status):
        end = SessionEndInfo(status=status, end_time_secs=changed)
        values.append(_wrap_plugin_message(metadata.SESSION_END_INFO_TAG, session_end_info=end))
    return _encode_event_file(values, changed, int(run.metrics.get("best_epoch") or 0))


def _get_final_metrics(run: Run) -> dict[str, float]:
    """Return the finite validation metrics of the best epoch and the finite test metrics."""
    names = [name for name in find_scalar_metrics(run.metrics) if name.startswith(("val/", "test/"))]
    return {name: value for name in names if (value := run.metrics[name]) is not None and abs(value) < MAX_VALUE}


def _read_change_time(folder: Path) -> float:
    """Return the time of the last change of a job's status, in seconds since 1970."""
    path = next((path for name in (STATUS_FILE, JOB_FILE) if (path := folder / name).exists()), folder)
    return path.stat().st_mtime


def _wrap_plugin_message(tag: str, **fields: Any) -> Summary.Value:
    """Return a message of the HParams plugin as an event's value, which holds it in its metadata."""
    message = HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **fields)
    content = message.SerializeToString(deterministic=True)  # else equal messages may order settings differently
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=metadata.NULL_TENSOR)


def _encode_event_file(values: list[Summary.Value], time: float, step: int) -> bytes:
    """Return the content of an event file with these values, all at the same time and step."""
    content = BytesIO()
    writer = RecordWriter(content)
    for event in (
        Event(wall_time=time, file_version="brain.Event:2"),
        Event(wall_time=time, step=step, summary=Summary(value=values)),
    ):
        writer.write(event.SerializeToString(deterministic=True))
    return content.getvalue()


def _write_if_changed(path: Path, content: bytes) -> None:
    """Write a file, unless it has this content already."""
    if not path.is_file() or path.read_bytes() != content:
        with open_atomic(path) as file:
            file.write(content)
