"""How many jobs a machine runs at once, and which part of it each one gets."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.core.processes import SHARE_OF_CORES, SHARE_OF_GPU

LEAST_OF_GPU = 2**30  # bytes of memory that a job takes: half of it before it begins, for CUDA itself
Share = dict[str, str]  # environment variables


class Wish(NamedTuple):
    """What a sweep asks for.

    Attributes:
        accelerators: ``trainer.accelerator`` of its jobs.
        threads: CPU threads of each job; ``None``: no wish.
        jobs: how many at once; ``None``: as many as the machine bears.
        jobs_per_gpu: how many share a GPU.
    """

    accelerators: set[str]
    threads: int | None
    jobs: int | None
    jobs_per_gpu: int


def shares(wish: Wish) -> list[Share]:
    """For each job at once its part of the machine.

    With CUDA a GPU each, in turn; on Apple's GPU one job; else as many as the cores bear.
    """
    from src.core import devices

    kinds = {kind_of(accelerator) for accelerator in wish.accelerators}
    gpus = visible_gpus() if devices.CUDA in kinds else []
    threads = devices.asked_threads(wish.threads) or 1
    on_cpu = 1 if devices.MPS in kinds else max(1, devices.cores() // threads)
    count = wish.jobs or len(gpus) * wish.jobs_per_gpu or on_cpu
    cores = {SHARE_OF_CORES: str(max(1, devices.cores() // count))}
    if not gpus:
        return [cores] * count
    gpu_share = share_gpus(len(gpus), math.ceil(count / len(gpus)))
    return [{**cores, **gpu_share, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(count)]


def share_gpus(gpus: int, jobs: int) -> Share:
    """Return which part of a GPU's memory each job on it may take; nothing for a job that has it to itself.

    Args:
        gpus: how many there are.
        jobs: on each of them.

    Raises:
        InputError: if they have too little memory for so many.
    """
    import torch

    if jobs < 2:
        return {}
    free = min(torch.cuda.mem_get_info(number)[0] for number in range(gpus))
    if (most := int(free // LEAST_OF_GPU)) < jobs:
        have = f"{jobs} jobs on a GPU with {free / 2**30:.1f} GB of free memory"
        raise InputError(f"hydra.launcher.jobs_per_gpu: {have}, and each takes about 1 GB: at most {most}")
    return {SHARE_OF_GPU: f"{1 / jobs:.4f}"}


def kind_of(accelerator: str) -> str:
    """The kind of device that ``trainer.accelerator`` comes to here; the CPU where the job itself will complain."""
    from src.core import devices

    try:
        return devices.resolve(accelerator)
    except InputError:
        return devices.CPU


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    import torch

    count = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given[:count] if given else [str(number) for number in range(count)]


def tell(question: Callable[..., Any], given: Sequence[Any], environment: dict[str, str], answer: Connection) -> None:
    """Answer a question about the machine from a process of its own, by an `InputError` where that is what comes."""
    os.environ.update(environment)
    try:
        found = question(*given)
    except InputError as error:
        found = error
    with suppress(BrokenPipeError):  # who asked was stopped meanwhile
        answer.send(found)
    answer.close()
