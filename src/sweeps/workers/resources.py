"""Allocation of a machine's resources: the number of concurrent jobs, and the cores and GPU of each."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.core.processes import CORES_VARIABLE, GPU_FRACTION_VARIABLE

MIN_GPU_MEMORY = 2**30  # bytes of GPU memory that a job needs at least: half of them for the CUDA context
Resources = dict[str, str]  # environment variables


class ResourceRequest(NamedTuple):
    """The resources that a sweep requests.

    Attributes:
        accelerators: the values of ``trainer.accelerator`` of its jobs.
        threads: CPU threads of each job; ``None``: the default.
        jobs: the number of jobs at once; ``None``: as many as fit.
        jobs_per_gpu: the number of jobs on each GPU.
    """

    accelerators: set[str]
    threads: int | None
    jobs: int | None
    jobs_per_gpu: int


def allocate_resources(request: ResourceRequest) -> list[Resources]:
    """Return the resources of each concurrent job.

    With CUDA the jobs are assigned to the GPUs in turn, `jobs_per_gpu` to each by default; on Apple's GPU one job runs
    at a time; on the CPU as many as there are cores for.
    """
    from src.core import devices

    kinds = {_resolve_device_kind(accelerator) for accelerator in request.accelerators}
    gpus = _find_visible_gpus() if devices.CUDA in kinds else []
    threads = devices.resolve_threads(request.threads) or 1
    on_cpu = 1 if devices.MPS in kinds else max(1, devices.count_cores() // threads)
    count = request.jobs or len(gpus) * request.jobs_per_gpu or on_cpu
    cores = {CORES_VARIABLE: str(max(1, devices.count_cores() // count))}
    if not gpus:
        return [cores] * count
    fraction = _split_gpu_memory(len(gpus), math.ceil(count / len(gpus)))
    return [{**cores, **fraction, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(count)]


def _split_gpu_memory(gpus: int, jobs: int) -> Resources:
    """Return the fraction of a GPU's memory that each job on it may use; nothing if each job has a GPU to itself.

    Args:
        gpus: the number of GPUs.
        jobs: the number of jobs on each GPU.

    Raises:
        InputError: if the GPUs have too little memory for that number of jobs.
    """
    import torch

    if jobs < 2:
        return {}
    free = min(torch.cuda.mem_get_info(number)[0] for number in range(gpus))
    if (most := int(free // MIN_GPU_MEMORY)) < jobs:
        have = f"{jobs} jobs on a GPU with {free / 2**30:.1f} GB of free memory"
        raise InputError(f"hydra.launcher.jobs_per_gpu: {have}, and each takes about 1 GB: at most {most}")
    return {GPU_FRACTION_VARIABLE: f"{1 / jobs:.4f}"}


def _resolve_device_kind(accelerator: str) -> str:
    """Resolve ``trainer.accelerator`` to a kind of device; an invalid value, which the job will refuse, to the CPU."""
    from src.core import devices

    try:
        return devices.resolve_device_kind(accelerator)
    except InputError:
        return devices.CPU


def _find_visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, in the form of ``CUDA_VISIBLE_DEVICES``."""
    import torch

    count = torch.cuda.device_count()
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


def send_result(
    function: Callable[..., Any], args: Sequence[Any], environment: dict[str, str], sender: Connection
) -> None:
    """Call a function in a subprocess, and send back its result or its `InputError`."""
    os.environ.update(environment)
    try:
        result = function(*args)
    except InputError as error:
        result = error
    with suppress(BrokenPipeError):  # the receiver was stopped meanwhile
        sender.send(result)
    sender.close()
