"""Each job's share of the machine: cores, and one of the GPUs."""

import os
from collections.abc import Callable

import pytest
import torch

from src.core import devices
from src.core.errors import InputError
from src.core.processes import CORES_VARIABLE, GPU_FRACTION_VARIABLE
from src.sweeps.workers.resources import ResourceRequest, allocate_resources

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes the machine one with so many cores and GPUs (or Apple's)."""

    def become(cores: int, gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(devices, "count_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return become


def make_request(
    *accelerators: str, threads: int | None = None, jobs: int | None = None, jobs_per_gpu: int = 1
) -> ResourceRequest:
    return ResourceRequest(set(accelerators or ("auto",)), threads, jobs, jobs_per_gpu)


def list_cores(found: list[dict[str, str]]) -> list[str]:
    return [share["THUNDERHEAD_CORES"] for share in found]


def list_gpus(found: list[dict[str, str]]) -> list[str | None]:
    return [share.get("CUDA_VISIBLE_DEVICES") for share in found]


def test_cpu_machine_has_job_per_core(machine: Machine) -> None:
    """Without a GPU there is one job for each core."""
    machine(cores=8)
    assert allocate_resources(make_request()) == [{"THUNDERHEAD_CORES": "1"}] * 8


@pytest.mark.parametrize(
    ("threads", "at_once", "cores"), [(1, 8, "1"), (2, 4, "2"), (3, 2, "4"), (8, 1, "8"), (9, 1, "8")]
)
def test_threads_limit_parallel_jobs(
    threads: int, at_once: int, cores: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of a job limit how many jobs run at once."""
    machine(cores=8)
    assert list_cores(allocate_resources(make_request(threads=threads))) == [cores] * at_once
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert list_cores(allocate_resources(make_request())) == [cores] * at_once


@pytest.mark.parametrize(("jobs", "cores"), [(1, "8"), (2, "4"), (3, "2"), (16, "1")])
def test_cores_are_divided_among_jobs(jobs: int, cores: str, machine: Machine) -> None:
    machine(cores=8)
    assert list_cores(allocate_resources(make_request(jobs=jobs))) == [cores] * jobs


def test_each_gpu_has_one_job(machine: Machine) -> None:
    """Each GPU has one job, which sees no other GPU."""
    machine(cores=8, gpus=4)
    assert allocate_resources(make_request("gpu")) == [
        {"THUNDERHEAD_CORES": "2", "CUDA_VISIBLE_DEVICES": number} for number in ("0", "1", "2", "3")
    ]


def test_jobs_per_gpu_are_assigned_in_turn(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several jobs share a GPU if asked to; they are assigned to the GPUs in turn."""
    machine(cores=8, gpus=2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (8 * 2**30, 80 * 2**30))
    found = allocate_resources(make_request(jobs_per_gpu=2))
    assert list_gpus(found) == ["0", "1", "0", "1"]
    assert list_cores(found) == ["2"] * 4
    assert list_gpus(allocate_resources(make_request(jobs=3))) == ["0", "1", "0"]
    assert list_gpus(allocate_resources(make_request(jobs=1))) == ["0"]


def test_jobs_divide_gpu_memory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs on one GPU divide its memory, and more than fit are refused."""
    machine(cores=8, gpus=2)
    free = [8 * 2**30, 5 * 2**30]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 80 * 2**30))
    assert [share.get(GPU_FRACTION_VARIABLE) for share in allocate_resources(make_request(jobs_per_gpu=4))] == [
        "0.2500"
    ] * 8
    assert [share.get(GPU_FRACTION_VARIABLE) for share in allocate_resources(make_request())] == [None] * 2
    with pytest.raises(InputError, match=r"jobs_per_gpu: 6 jobs on a GPU with 5.0 GB of free memory, .* at most 5"):
        allocate_resources(make_request(jobs_per_gpu=6))


def test_job_limits_its_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job limits its GPU memory to its fraction."""
    taken: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    for share in ("0.2500", ""):
        monkeypatch.setenv(GPU_FRACTION_VARIABLE, share)
        devices.prepare_device(devices.CUDA, threads, 1, deterministic=False)
    torch.set_float32_matmul_precision(precision)
    assert taken == [0.25]


@pytest.mark.parametrize(
    ("given", "count", "pinned"),
    [("3,5", 2, ["3", "5"]), (" 3 , 5 ", 2, ["3", "5"]), ("5", 1, ["5"]), ("GPU-8f,MIG-1a", 2, ["GPU-8f", "MIG-1a"])],
)
def test_only_visible_gpus_are_used(
    given: str, count: int, pinned: list[str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(cores=8, gpus=count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert list_gpus(allocate_resources(make_request("gpu"))) == pinned


def test_cpu_jobs_take_no_gpu(machine: Machine) -> None:
    machine(cores=4, gpus=2)
    assert allocate_resources(make_request("cpu")) == [{"THUNDERHEAD_CORES": "1"}] * 4


def test_mixed_jobs_are_assigned_to_gpus(machine: Machine) -> None:
    """If some jobs need a GPU, all jobs are assigned to the GPUs."""
    machine(cores=4, gpus=2)
    assert list_gpus(allocate_resources(make_request("cpu", "gpu"))) == ["0", "1"]


def test_apple_gpu_has_one_job(machine: Machine) -> None:
    machine(cores=8, mps=True)
    assert allocate_resources(make_request()) == [{"THUNDERHEAD_CORES": "8"}]
    assert list_cores(allocate_resources(make_request("cpu"))) == ["1"] * 8
    assert list_cores(allocate_resources(make_request(jobs=2))) == ["4"] * 2


def test_missing_gpu_is_left_to_jobs(machine: Machine) -> None:
    """Jobs that ask for a missing GPU get CPU resources and report the error themselves."""
    machine(cores=2)
    assert allocate_resources(make_request("gpu")) == [{"THUNDERHEAD_CORES": "1"}] * 2


def test_worker_counts_only_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes the cores that it was given for all cores of the machine."""
    monkeypatch.setenv(CORES_VARIABLE, "3")
    assert devices.count_cores() == 3
    devices.prepare_device(devices.CPU, threads=None, processes=1, deterministic=False)
    assert torch.get_num_threads() == 3
    monkeypatch.delenv(CORES_VARIABLE)
    assert devices.count_cores() == (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
