"""The whole way from a raw input to a prediction as one module, which is what a file holds."""

from collections.abc import Callable

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import InputError
from src.data.loading.samples import cast_inputs
from src.data.preprocessing import IMAGE, VALUES, DataDescription, Preprocessing

INPUT = "inputs"  # the input's name in a file
PROBABILITIES, LOGITS = "probabilities", "logits"


def _pad_and_softmax(outputs: Tensor) -> Tensor:
    """Return the probabilities of two classes (B, 2) from the second one's logit (B, 1)."""
    return F.pad(outputs, (1, 0)).softmax(dim=1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # from logits to probabilities
    "multiclass": lambda outputs: outputs.softmax(dim=1),
    "binary": _pad_and_softmax,
    "multilabel": torch.sigmoid,
    "dense": lambda outputs: outputs.softmax(dim=1),
}


class ExportedNetwork(nn.Module):
    """Preprocessing, network and, for classes, probabilities: raw inputs (B, *in_shape) → outputs (B, out_features).

    Args:
        network: the run's, in evaluation mode.
        description: of the data that it takes.
        output: "probabilities", (B, K) also for two classes, or "logits", as the network returns them; ``None``:
            probabilities for classes, values for other tasks.

    Attributes:
        output_name: "probabilities", "logits" or "values".
        input_type: of the raw inputs: uint8 for images, int64 for tokens, otherwise float32.

    Raises:
        InputError: if the task has no probabilities.
    """

    def __init__(self, network: LightningModule, description: DataDescription, output: str | None) -> None:
        super().__init__()
        steps = description.preprocessing
        self.network, self.prepare = network, steps or Preprocessing(VALUES)
        self.in_shape, self.num_tokens = description.in_shape, description.num_tokens
        self.input_type = torch.int64 if self.num_tokens else torch.float32
        if steps is not None and steps.kind == IMAGE:
            self.input_type = torch.uint8
        known = ACTIVATIONS.get(description.task)
        if output is not None and known is None:
            raise InputError(f"output={output} is for classes, and the task of this run is {description.task}")
        self.activate = None if output == LOGITS else known
        self.output_name = "values" if known is None else output or PROBABILITIES

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(cast_inputs(self.prepare(inputs), torch.float32, self.num_tokens))
        return outputs if self.activate is None else self.activate(outputs)

    def make_example(self) -> Tensor:
        """Return a batch of raw inputs."""
        return torch.zeros(3, *self.in_shape, dtype=self.input_type)  # sizes 0 and 1 would be taken as constants
