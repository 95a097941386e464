"""torch.compile for training steps: it can speed them up, but the first step takes much longer."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from src.callbacks.history import History
from src.core.devices import is_main_process
from src.core.errors import InputError

log = logging.getLogger(__name__)


@contextmanager
def compile_network(model: LightningModule, mode: str | None, history: History) -> Iterator[None]:
    """Compile a model's network (``net``) for training steps inside this context.

    Evaluation and figures use the uncompiled network. Each batch size, such as that of an epoch's last batch, is
    compiled separately: the results then do not depend on which size came first, so that a resumed run continues
    exactly.

    Args:
        model: a model without ``net`` stays unchanged, which is logged.
        mode: torch.compile's; ``None`` compiles nothing.
        history: the seconds spent on compiling are added to it.

    Raises:
        InputError: if the network cannot be compiled, for example without a C++ compiler.
    """
    net = getattr(model, "net", None)
    if mode is None or net is None:
        if mode and is_main_process():
            log.info("note: compile=%s: %s has no network (net) to compile", mode, type(model).__name__)
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # slow import (1 s), which other runs do not need

    _time_compilation(mode, history)
    # Not `net.compile(…)`: it would compile evaluation too, whose results must be those of the saved weights.
    net.forward = _compile_forward(net, mode)
    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
        raise InputError(
            f"compile={mode}: torch.compile cannot compile {type(net).__name__} here ({reason}); fix that, or "
            "use compile=null"
        ) from error
    finally:
        del net.forward  # that of its class is used again
        torch.compiler.reset()  # stops the timer; the next run in this process must compile again


def _compile_forward(net: nn.Module, mode: str) -> Callable[..., Any]:
    """Return a network's ``forward``, compiled in training mode; its modules and their names stay the same."""
    plain, fast = net.forward, torch.compile(net.forward, mode=mode, dynamic=False)

    def forward(*inputs: Any) -> Any:
        if not net.training:
            return plain(*inputs)
        outputs = fast(*inputs)
        # The other modes may use CUDA graphs, whose next step overwrites the memory of this step's outputs.
        return outputs.clone() if mode != "default" and outputs.is_cuda else outputs

    return forward


def _time_compilation(mode: str, history: History) -> None:
    """Log the seconds of each compilation and add them to the history's, until torch.compiler is reset."""
    from torch._dynamo.callback import on_compile_end, on_compile_start

    started = 0.0

    @on_compile_start
    def start(_: Any) -> None:
        nonlocal started
        started = time.monotonic()

    @on_compile_end
    def stop(_: Any) -> None:
        seconds = time.monotonic() - started
        history.compile_seconds += seconds
        if is_main_process() and seconds >= 0.05:  # recording a CUDA graph takes less
            log.info("compiled in %.1f s (torch.compile, mode %s), included in the run's seconds", seconds, mode)
