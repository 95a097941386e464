"""Write a job's learning curves for TensorBoard, all at once."""

import os
import socket
from io import BytesIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from src.loggers.kinds import name_chart
from src.storage.files import open_atomic
from src.vectorized.job import Member

Scalars = dict[str, float]


def write_events(member: Member, optimizer: str, batches: int) -> None:
    """Write the events that a separate run would log: losses, metrics and learning rate by optimiser step.

    Args:
        member: the job.
        optimizer: name of the optimiser's class, used in the name of the learning rate's chart.
        batches: number of steps per epoch.
    """
    content = BytesIO()
    writer = RecordWriter(content)
    start = member.times[0] if member.times else 0.0
    writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    for step, scalars in sorted(curves(member, optimizer, batches).items()):
        epoch = min(step // batches, len(member.times) - 1)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = Event(wall_time=member.times[epoch], step=step, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    name = f"events.out.tfevents.{int(start)}.{socket.gethostname()}.{os.getpid()}.0"
    with open_atomic(member.folder / name) as file:
        file.write(content.getvalue())


def curves(member: Member, optimizer: str, batches: int) -> dict[int, Scalars]:
    """Return the values logged at each step: step → (chart name → value)."""
    found: dict[int, Scalars] = {}
    for step, rates in member.rates:
        names = [f"lr-{optimizer}/pg{group}" for group in range(1, len(rates) + 1)]
        tags = [name_chart(name) for name in (names if len(rates) > 1 else [f"lr-{optimizer}"])]
        found.setdefault(step, {}).update(zip(tags, rates, strict=True))
    for epoch, row in enumerate(member.history.rows):
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        found.setdefault((epoch + 1) * batches - 1, {}).update(metrics)
    for step, loss in member.looks:
        found.setdefault(step, {})["train/loss_step"] = loss
    tested = {name: value for name, value in member.results.test_metrics.items() if isinstance(value, float)}
    if tested:
        found.setdefault(len(member.history.rows) * batches, {}).update(tested)
    return found
