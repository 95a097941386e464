"""The machine that a run trains on: which devices there are, and what suits them."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from src.core.errors import InputError
from src.core.processes import SHARE_OF_GPU, Place, cores, memory

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
CUDA, MPS, CPU = "cuda", "mps", "cpu"
# Lightning switches it on; on the CPU each optimiser step would then ask in vain whether there is a GPU, for 40 µs.
ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
FEW_PROCESSES = 8  # bearable on a CPU with fewer cores, to try something out
MOST_THREADS = 1024  # with a hundred times as many a process ends without a word
# Floating-point operations of a forward pass, below which a step is small: on a CPU it is better on one thread than on
# several, and everywhere what is done around a step takes longer than the step. Reckoned, not measured, for a GPU.
SMALL_STEP = {CPU: 20_000_000, CUDA: 20_000_000_000, MPS: 20_000_000}


def available() -> str:
    """The best kind of device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return CUDA
    return MPS if torch.backends.mps.is_available() else CPU


def resolve(accelerator: str) -> str:
    """The kind of device that ``trainer.accelerator`` asks for.

    Raises:
        InputError: if this machine has none of it.
    """
    best = available()
    if accelerator == "auto":
        return best
    kind = {"gpu": best if best != CPU else CUDA}.get(accelerator, accelerator)
    if kind == CUDA and not torch.cuda.is_available():
        raise InputError(f"trainer.accelerator={accelerator}: this machine has no GPU; use trainer=auto or trainer=cpu")
    if kind == MPS and best != MPS:
        raise InputError("trainer.accelerator=mps: this machine has no Apple GPU; use trainer=auto or trainer=cpu")
    return kind


def check_count(kind: str, devices: Any) -> int:
    """How many devices ``trainer.devices`` asks for; each has a process of its own.

    Raises:
        InputError: if there are fewer GPUs, or far fewer CPU cores.
    """
    there = {CUDA: torch.cuda.device_count(), MPS: 1}.get(kind)
    if isinstance(devices, str):  # auto: all that there are
        devices = there or 1
    if there is None:
        if not isinstance(devices, int):
            raise InputError(f"trainer.devices={devices}: device numbers are for GPUs, and this run is on the CPU")
        if devices > (most := max(FEW_PROCESSES, cores())):
            raise InputError(f"trainer.devices={devices}: this machine has {cores()} CPU cores, use at most {most}")
        return devices
    wanted = [*range(devices)] if isinstance(devices, int) else devices
    if any(number >= there for number in wanted):
        raise InputError(f"trainer.devices={devices}: this machine has {there} GPU{'s'[: there != 1]}")
    return len(wanted)


def prepare(kind: str, threads: int | None, processes: int, deterministic: bool) -> None:
    """Set the CPU threads and the arithmetic that suit the device.

    Args:
        kind: "cuda", "mps" or "cpu".
        threads: CPU threads of this process; ``None``: its share of the cores.
        processes: how many processes of this run share the machine.
        deterministic: leave out the search for the fastest convolution.
    """
    torch.set_num_threads(threads or max(1, cores() // processes))
    if kind == CPU:
        os.environ[ASK_NVML] = "0"
        keep_memory()
    if kind == CUDA:
        torch.set_float32_matmul_precision("high")  # TF32: float32's range, 10 bits of mantissa
        torch.backends.cudnn.benchmark = not deterministic
        if share := os.environ.get(SHARE_OF_GPU):  # more is this job's error, and none of those beside it
            torch.cuda.set_per_process_memory_fraction(float(share))


def keep_memory() -> None:
    """Have freed memory used again instead of given back to the system, which hands it out anew page by page.

    With the C library of Linux (glibc); elsewhere nothing changes. A step of ``experiment=cifar10_fast`` on the CPU
    takes 15% less time.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def precision(asked: Any, kind: str) -> Any:
    """What ``trainer.precision`` comes to: "auto" is bf16-mixed where the device calculates in bfloat16.

    A CPU that has to emulate it takes three times as long as in float32; one that has it, half as long.

    Raises:
        InputError: if the device does not calculate in what is asked for.
    """
    if kind == CPU and str(asked) in ("16-mixed", "16"):
        raise InputError(f"trainer.precision={asked} needs a GPU: on the CPU use bf16-mixed or 32-true")
    if kind == MPS and str(asked) in ("64-true", "64"):
        raise InputError(f"trainer.precision={asked}: Apple's GPUs have no 64-bit numbers; use 32-true, or trainer=cpu")
    if asked != "auto":
        return asked
    if kind == CUDA:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if kind == CPU else {}
        has_it = bool(told.get("avx512_bf16") or told.get("amx_bf16"))
    return "bf16-mixed" if has_it else "32-true"


def sum_type(kind: str) -> torch.dtype:
    """Return the type in which many numbers are added up: float64, which Apple's GPUs lack."""
    return torch.float32 if kind == MPS else torch.float64


def asked_threads(threads: int | None) -> int | None:
    """The CPU threads that ``threads=`` asks for, or else OMP_NUM_THREADS; ``None`` if neither does.

    Raises:
        InputError: if OMP_NUM_THREADS asks for more than any machine bears.
    """
    environment = os.environ.get("OMP_NUM_THREADS", "")
    if threads or not environment.isdecimal():
        return threads
    if int(environment) > MOST_THREADS:
        raise InputError(f"OMP_NUM_THREADS={environment}: at most {MOST_THREADS} threads can be asked for")
    return int(environment) or None


def match_threads(operations: int) -> None:
    """Keep to one thread where a step is too small to share.

    An MLP 784-100-10 with batch 64 (10 million operations a step) trains as fast on one thread as
    on two, and the two wait for each other when something else runs on the machine: 20 to 30 times
    slower, measured.

    Args:
        operations: floating-point operations of one forward pass of a batch; 0: not known.
    """
    if 0 < operations < SMALL_STEP[CPU]:
        torch.set_num_threads(1)


def small_step(kind: str) -> int:
    """Return below how many floating-point operations of a batch's forward pass a step is small."""
    return SMALL_STEP.get(kind, SMALL_STEP[CPU])


@contextmanager
def within_memory(kind: str) -> Iterator[None]:
    """Refuse weights that this machine cannot hold, as they are made: the system would end the process without a word.

    Raises:
        InputError: as soon as there are too many.
    """
    needed = 0

    def count(module: torch.nn.Module, name: str, weight: torch.nn.Parameter) -> None:
        nonlocal needed
        if is_lazy(weight):
            return  # it has no size yet
        needed += weight.numel() * weight.element_size() * (2 if kind == CPU else 1)  # a gradient for each
        if needed > memory():
            raise InputError(
                f"the model's weights need more than the {memory() / 2**30:,.0f} GB of memory here: choose a smaller "
                "one (model.hidden_size, model.channels)"
            )

    counting = register_module_parameter_registration_hook(count)  # before there is anything in them
    try:
        yield
    finally:
        counting.remove()


def suit_memory(module: torch.nn.Module, kind: str) -> None:
    """Keep convolutions' weights channels-last where that is faster.

    A step of the default CNN on 128 CIFAR-10 images: 1.5 times on two CPU threads.
    """
    if kind in (CUDA, CPU) and not any(map(is_lazy, module.parameters())):
        module.to(memory_format=torch.channels_last)


def take_place(here: Place) -> None:
    """Let Lightning know from the beginning which process this is; it settles that when training starts."""
    rank_zero_only.rank = int(not here.first)  # type: ignore[attr-defined]


def is_main_process() -> bool:
    """Whether this is the first of the processes that train together: the one that writes."""
    return not getattr(rank_zero_only, "rank", 0)


def describe(kind: str) -> str:
    """The device in words."""
    if kind == CUDA:
        return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return "Apple MPS" if kind == MPS else f"CPU, {(n := torch.get_num_threads())} thread{'s'[: n != 1]}"
