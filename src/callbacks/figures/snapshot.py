"""What pictures of a network as it is at the moment have in common: when they are drawn, and how they look inside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from src.callbacks.figures.base import FigureCallback
from src.data.base import TensorDataModule


class Snapshot(FigureCallback):
    """A picture of what the weights do, while they are trained and when they are chosen.

    Args:
        every_n_epochs: draw also while training, every so many epochs; 0: only the weights kept.
    """

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self.take(trainer, pl_module, f"epoch {trainer.current_epoch + 1}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.take(trainer, pl_module, "the weights kept")

    def take(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        """Show the model as it is, or nothing where the picture does not suit it."""
        raise AttributeError(f"{type(self).__name__} must define take()")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards each part is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def as_network_takes(model: LightningModule, data: TensorDataModule, inputs: Tensor) -> Tensor:
    """Inputs as they are kept → as the network takes them, on its device and in its precision."""
    return data.transform(inputs.to(model.device)).to(model.dtype)


def watched(model: LightningModule, layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """What a layer is given and what it gives when the model sees the inputs, and what the model gives.

    ``None`` if the layer takes no part.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda module, given, output: seen.append((given[0], output)))
    try:
        with evaluating(model):
            outputs = model(inputs)
    finally:
        hook.remove()
    return (*seen[0], outputs) if seen else None


def linear_layers(model: LightningModule) -> list[nn.Linear]:
    """The fully connected layers of the model's network, first to last."""
    net = getattr(model, "net", None)
    modules = net.modules() if isinstance(net, nn.Module) else ()
    return [module for module in modules if isinstance(module, nn.Linear)]


def last_hidden(model: LightningModule, inputs: Tensor) -> tuple[nn.Linear, Tensor] | None:
    """The output layer, and the values (B, H) that the inputs (B, …) give to it, those of the last hidden layer.

    ``None`` where the model's outputs are not those of a fully connected layer. Without a hidden
    layer the values are the inputs.
    """
    layers = linear_layers(model)
    seen = watched(model, layers[-1], inputs) if layers else None
    if seen is None:
        return None
    hidden, output, outputs = seen
    return (layers[-1], hidden) if output is outputs or torch.equal(output, outputs) else None
