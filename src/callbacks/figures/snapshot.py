"""Base class of figures of the current weights, and helpers to capture what a network's layers compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from src.callbacks.figures.base import FigureCallback
from src.data.base import TensorDataModule


class Snapshot(FigureCallback):
    """A figure of the model's current weights, drawn during training and after the test.

    Args:
        every_n_epochs: draw also during training, every n epochs; 0: only the selected weights, after the test.
    """

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self.draw_snapshot(trainer, pl_module, f"epoch {trainer.current_epoch + 1}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw_snapshot(trainer, pl_module, "selected weights")

    def draw_snapshot(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        """Draw the model in its current state; do nothing if the figure does not apply to it."""
        raise AttributeError(f"{type(self).__name__} must define draw_snapshot()")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode and without gradients; restore each module's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def prepare_inputs(model: LightningModule, data: TensorDataModule, inputs: Tensor) -> Tensor:
    """Transform stored inputs to the network's inputs, on its device and in its precision."""
    return data.cast_inputs(data.transform(inputs.to(model.device)), model.dtype)


def capture_layer(model: LightningModule, layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Run the model on the inputs and return a layer's input, the layer's output and the model's output.

    Returns ``None`` if the layer is not called.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda module, given, output: calls.append((given[0], output)))
    try:
        with eval_mode(model):
            outputs = model(inputs)
    finally:
        hook.remove()
    return (*calls[0], outputs) if calls else None


def _get_linear_layers(model: LightningModule) -> list[nn.Linear]:
    """Return the fully connected layers of the model's network, first to last."""
    net = getattr(model, "net", None)
    modules = net.modules() if isinstance(net, nn.Module) else ()
    return [module for module in modules if isinstance(module, nn.Linear)]


def capture_last_hidden(model: LightningModule, inputs: Tensor) -> tuple[nn.Linear, Tensor] | None:
    """Return the output layer and the values (B, H) of the last hidden layer for the inputs (B, …).

    Returns ``None`` if the model's outputs are not those of a fully connected layer. Without a hidden layer the values
    are the inputs.
    """
    layers = _get_linear_layers(model)
    captured = capture_layer(model, layers[-1], inputs) if layers else None
    if captured is None:
        return None
    hidden, output, outputs = captured
    return (layers[-1], hidden) if output is outputs or torch.equal(output, outputs) else None
