"""How many jobs a machine runs at once, and which part of it each one gets."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from src.environment import SHARE_OF_CORES

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
    from src import devices  # here: it imports torch, which only this function's process needs

    kinds = {kind_of(accelerator) for accelerator in wish.accelerators}
    gpus = visible_gpus() if devices.CUDA in kinds else []
    threads = devices.asked_threads(wish.threads) or 1
    on_cpu = 1 if devices.MPS in kinds else max(1, devices.cores() // threads)
    count = wish.jobs or len(gpus) * wish.jobs_per_gpu or on_cpu
    cores = {SHARE_OF_CORES: str(max(1, devices.cores() // count))}
    pinned = [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(count)]
    return [{**cores, **gpu} for gpu in pinned]


def kind_of(accelerator: str) -> str:
    """The kind of device that ``trainer.accelerator`` comes to here; the CPU where the job itself will complain."""
    from src import devices
    from src.errors import InputError

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
    """Answer a question about the machine from a process of its own."""
    os.environ.update(environment)
    found = question(*given)
    with suppress(BrokenPipeError):  # who asked was stopped meanwhile
        answer.send(found)
    answer.close()
