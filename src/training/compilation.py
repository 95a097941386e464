"""torch.compile for training steps: it can speed them up, but the first step takes much longer."""

import logging
import time
from collections.abc import Iterator
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
    from torch._dynamo import callback_handler  # slow import (1 s), which other runs do not need
    from torch._dynamo.exc import TorchDynamoException

    clock = CompileTimer(mode, history)
    callback_handler.register_start_callback(clock.start)
    callback_handler.register_end_callback(clock.stop)
    try:
        _compile_steps(net, mode, clock)
        yield
        clock.log_seconds()
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
        raise InputError(
            f"compile={mode}: torch.compile cannot compile {type(net).__name__} here ({reason}); fix that, or "
            "use compile=null"
        ) from error
    finally:
        vars(net).pop("forward", None)
        callback_handler.remove_start_callback(clock.start)
        callback_handler.remove_end_callback(clock.stop)
        torch.compiler.reset()  # the next run in this process must compile again


def _compile_steps(net: nn.Module, mode: str, timer: "CompileTimer") -> None:
    """Replace a network's ``forward`` by one compiled in training mode; its modules and their names stay the same."""
    plain, fast = net.forward, torch.compile(net.forward, mode=mode, dynamic=False)

    def forward(*inputs: Any) -> Any:
        if not net.training:
            return plain(*inputs)
        timer.log_seconds()
        outputs = fast(*inputs)
        # The other modes may use CUDA graphs, whose next step overwrites the memory of this step's outputs.
        return outputs.clone() if mode != "default" and outputs.is_cuda else outputs

    net.forward = forward


class CompileTimer:
    """Timer of torch.compile that logs the seconds at the step after the compilation.

    Args:
        mode: torch.compile's.
        history: the seconds are added to its ``compile_seconds``.
    """

    def __init__(self, mode: str, history: History) -> None:
        self.mode, self.history = mode, history
        self.started = self.unlogged_seconds = 0.0

    def start(self, _: Any) -> None:
        self.started = time.monotonic()

    def stop(self, _: Any) -> None:
        seconds = time.monotonic() - self.started
        self.unlogged_seconds += seconds
        self.history.compile_seconds += seconds

    def log_seconds(self) -> None:
        if self.unlogged_seconds and is_main_process():
            words = "compiled in %.1f s (torch.compile, mode %s), included in the run's seconds"
            log.info(words, self.unlogged_seconds, self.mode)
        self.unlogged_seconds = 0.0
