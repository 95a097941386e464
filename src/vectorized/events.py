"""Write a job's learning curves for TensorBoard, all at once."""

import os
import socket
from io import BytesIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from src.loggers.kinds import get_chart_name
from src.storage.files import open_atomic
from src.vectorized.job import StackedJob

Scalars = dict[str, float]


def write_events(job: StackedJob, optimizer: str, batches: int) -> None:
    """Write the events that a separate run would log: losses, metrics and learning rate by optimiser step.

    Args:
        job: the job.
        optimizer: name of the optimiser's class, used in the name of the learning rate's chart.
        batches: number of steps per epoch.
    """
    content = BytesIO()
    writer = RecordWriter(content)
    start = job.epoch_times[0] if job.epoch_times else 0.0
    writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    for step, scalars in sorted(_collect_scalars(job, optimizer, batches).items()):
        epoch = min(step // batches, len(job.epoch_times) - 1)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = Event(wall_time=job.epoch_times[epoch], step=step, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    name = f"events.out.tfevents.{int(start)}.{socket.gethostname()}.{os.getpid()}.0"
    with open_atomic(job.folder / name) as file:
        file.write(content.getvalue())


def _collect_scalars(job: StackedJob, optimizer: str, batches: int) -> dict[int, Scalars]:
    """Return the values logged at each step: step → (chart name → value)."""
    found: dict[int, Scalars] = {}
    for step, rates in job.logged_rates:
        names = [f"lr-{optimizer}/pg{group}" for group in range(1, len(rates) + 1)]
        tags = [get_chart_name(name) for name in (names if len(rates) > 1 else [f"lr-{optimizer}"])]
        found.setdefault(step, {}).update(zip(tags, rates, strict=True))
    for epoch, row in enumerate(job.history.rows):
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        found.setdefault((epoch + 1) * batches - 1, {}).update(metrics)
    for step, loss in job.logged_losses:
        found.setdefault(step, {})["train/loss_step"] = loss
    tested = {name: value for name, value in job.results.test_metrics.items() if isinstance(value, float)}
    if tested:
        found.setdefault(len(job.history.rows) * batches, {}).update(tested)
    return found
