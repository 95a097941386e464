"""Find the devices that a run trains on, and adapt threads, precision and memory layout to them."""

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
from src.core.processes import GPU_FRACTION_VARIABLE, ProcessInfo, count_cores, get_memory_bytes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
CUDA, MPS, CPU = "cuda", "mps", "cpu"
# Lightning enables this check; on the CPU each optimizer step would then look for a GPU, which takes 40 µs.
NVML_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
WEIGHT_DTYPES = {
    "64-true": torch.float64,
    "64": torch.float64,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
}  # of trainer.precision; with any other weights are in float32
FEW_CPU_PROCESSES = 8  # allowed on a CPU with fewer cores, to try something out
MAX_THREADS = 1024  # with a hundred times as many a process dies without a message
# Floating-point operations of a forward pass below which a step is small: on a CPU one thread is then faster than
# several, and on all devices the overhead around a step exceeds the step: an H200 takes 9 ms for ResNet18's step on 512
# images of CIFAR-10 (6e11 operations), and under the profiler its host took 25 ms to launch the kernels one by one.
SMALL_STEP_OPERATIONS = {CPU: 20_000_000, CUDA: 1_000_000_000_000, MPS: 20_000_000}


def detect_device_kind() -> str:
    """Return the best device kind of this machine: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return CUDA
    return MPS if torch.backends.mps.is_available() else CPU


def resolve_device_kind(accelerator: str) -> str:
    """Return the device kind that ``trainer.accelerator`` selects.

    Raises:
        InputError: if this machine has no such device.
    """
    best = detect_device_kind()
    if accelerator == "auto":
        return best
    kind = {"gpu": best if best != CPU else CUDA}.get(accelerator, accelerator)
    if kind == CUDA and not torch.cuda.is_available():
        raise InputError(f"trainer.accelerator={accelerator}: this machine has no GPU; use trainer=auto or trainer=cpu")
    if kind == MPS and best != MPS:
        raise InputError("trainer.accelerator=mps: this machine has no Apple GPU; use trainer=auto or trainer=cpu")
    return kind


def resolve_device_count(device_kind: str, devices: Any) -> int:
    """Return the number of devices that ``trainer.devices`` selects; each has its own process.

    Raises:
        InputError: if there are fewer GPUs, or far fewer CPU cores.
    """
    gpus = {CUDA: torch.cuda.device_count(), MPS: 1}.get(device_kind)
    if isinstance(devices, str):  # auto: all devices
        devices = gpus or 1
    if gpus is None:
        if not isinstance(devices, int):
            raise InputError(f"trainer.devices={devices}: device numbers are for GPUs, and this run is on the CPU")
        if devices > (most := max(FEW_CPU_PROCESSES, count_cores())):
            raise InputError(
                f"trainer.devices={devices}: this machine has {count_cores()} CPU cores, use at most {most}"
            )
        return devices
    wanted = [*range(devices)] if isinstance(devices, int) else devices
    if any(number >= gpus for number in wanted):
        raise InputError(f"trainer.devices={devices}: this machine has {gpus} GPU{'s'[: gpus != 1]}")
    return len(wanted)


def prepare_device(device_kind: str, threads: int | None, processes: int, deterministic: bool) -> None:
    """Set CPU threads, matrix multiplication precision and memory limits for a device kind.

    Args:
        device_kind: "cuda", "mps" or "cpu".
        threads: CPU threads of this process; ``None``: the cores divided by ``processes``.
        processes: the number of processes of this run on the machine.
        deterministic: disable the search for the fastest convolution algorithm.
    """
    torch.set_num_threads(threads or max(1, count_cores() // processes))
    if device_kind == CPU:
        os.environ[NVML_CUDA_CHECK] = "0"
        _keep_freed_memory()
    if device_kind == CUDA:
        torch.set_float32_matmul_precision("high")  # TF32: float32's range, 10 bits of mantissa
        torch.backends.cudnn.benchmark = not deterministic
        # If this job uses more memory than its fraction, it fails itself instead of the other jobs on the GPU.
        if fraction := os.environ.get(GPU_FRACTION_VARIABLE):
            torch.cuda.set_per_process_memory_fraction(float(fraction))


def _keep_freed_memory() -> None:
    """Keep freed memory in malloc's arena instead of returning it to the system, to avoid page faults.

    This works with the C library of Linux (glibc); elsewhere nothing changes. A step of ``experiment=cifar10_fast`` on
    the CPU takes 15% less time.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def resolve_precision(requested: Any, device_kind: str) -> Any:
    """Return the precision that ``trainer.precision`` selects: "auto" is bf16-mixed on devices with bfloat16 support.

    A CPU that has to emulate bfloat16 takes three times as long as with float32; one that supports it, half as long.

    Raises:
        InputError: if the device does not support the precision.
    """
    if device_kind == CPU and str(requested) in ("16-mixed", "16"):
        raise InputError(f"trainer.precision={requested} needs a GPU: on the CPU use bf16-mixed or 32-true")
    if device_kind == MPS and str(requested) in ("64-true", "64"):
        raise InputError(
            f"trainer.precision={requested}: Apple's GPUs have no 64-bit numbers; use 32-true, or trainer=cpu"
        )
    if requested != "auto":
        return requested
    if device_kind == CUDA:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device_kind == CPU else {}
        has_bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bf16-mixed" if has_bf16 else "32-true"


def convert_weights(module: torch.nn.Module, precision: Any) -> None:
    """Convert a module to the numbers of ``trainer.precision``, as Lightning does when training begins.

    Weights that are loaded before that would lose digits under 64-true.
    """
    if dtype := WEIGHT_DTYPES.get(str(precision)):
        module.to(dtype)


def choose_sum_dtype(device_kind: str) -> torch.dtype:
    """Return the dtype for sums of many numbers: float64, or float32 on Apple's GPUs, which lack float64."""
    return torch.float32 if device_kind == MPS else torch.float64


def resolve_threads(threads: int | None) -> int | None:
    """Return the number of CPU threads set by ``threads=`` or else OMP_NUM_THREADS; ``None`` if neither is set.

    Raises:
        InputError: if OMP_NUM_THREADS is more than `MAX_THREADS`.
    """
    environment = os.environ.get("OMP_NUM_THREADS", "")
    if threads or not environment.isdecimal():
        return threads
    if int(environment) > MAX_THREADS:
        raise InputError(f"OMP_NUM_THREADS={environment}: at most {MAX_THREADS} threads are allowed")
    return int(environment) or None


def limit_threads(operations: int) -> None:
    """Use one CPU thread if a step is too small to be split among threads.

    An MLP 784-100-10 with batch size 64 (10 million operations per step) trains as fast on one thread as on two. When
    something else runs on the machine, two threads wait for each other: measured as 20 to 30 times slower.

    Args:
        operations: floating-point operations of the forward pass of one batch; 0: unknown.
    """
    if 0 < operations < SMALL_STEP_OPERATIONS[CPU]:
        torch.set_num_threads(1)


def get_small_step(device_kind: str) -> int:
    """Return the number of floating-point operations of a batch's forward pass below which a step is small."""
    return SMALL_STEP_OPERATIONS.get(device_kind, SMALL_STEP_OPERATIONS[CPU])


@contextmanager
def limit_weight_memory(device_kind: str) -> Iterator[None]:
    """Refuse to create more weights than fit in memory, since the system would kill the process without a message.

    Raises:
        InputError: as soon as the weights created in this context need too much memory.
    """
    needed = 0

    def count(module: torch.nn.Module, name: str, weight: torch.nn.Parameter) -> None:
        nonlocal needed
        if is_lazy(weight):
            return  # its size is not known yet
        needed += weight.numel() * weight.element_size() * (2 if device_kind == CPU else 1)  # 2: gradients take as much
        if needed > get_memory_bytes():
            raise InputError(
                f"the model's weights need more than the {get_memory_bytes() / 2**30:,.0f} GB of memory here: "
                "choose a smaller "
                "one (model.hidden_size, model.channels)"
            )

    hook = register_module_parameter_registration_hook(count)  # called before the weights are initialised
    try:
        yield
    finally:
        hook.remove()


def convert_to_channels_last(module: torch.nn.Module, device_kind: str) -> None:
    """Convert a module's weights to the channels-last memory format where convolutions are faster with it.

    A step of the default CNN on 128 CIFAR-10 images is 1.5 times as fast on two CPU threads.
    """
    if device_kind in (CUDA, CPU) and not any(map(is_lazy, module.parameters())):
        module.to(memory_format=torch.channels_last)


def set_rank(process: ProcessInfo) -> None:
    """Set Lightning's rank of this process from the start; Lightning itself sets it only when training starts."""
    rank_zero_only.rank = int(not process.is_rank_zero)  # type: ignore[attr-defined]


def is_main_process() -> bool:
    """Return True if this process has rank 0 and so writes files and logs."""
    return not getattr(rank_zero_only, "rank", 0)


def describe_device(device_kind: str) -> str:
    """Return the device's name for logs."""
    if device_kind == CUDA:
        return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return "Apple MPS" if device_kind == MPS else f"CPU, {(n := torch.get_num_threads())} thread{'s'[: n != 1]}"
