"""Pretrained weights: those that a library publishes, and those in a file, read without running code."""

import re
from collections import OrderedDict
from typing import Any

from torch import nn

from src.core.errors import InputError
from src.models.published.library import Library
from src.storage.weights import get_weights, read_checkpoint

OWN_PREFIX = re.compile(r"^net\.(backbone|network)\.")  # of a backbone's weights in a run's checkpoint
AUXILIARY_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")  # of networks that were trained with several outputs
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # dots were allowed in names of layers


def read_pretrained(library: Library, arch: str, weights: str) -> dict[str, Any]:
    """Read a network's weights by name: those published as ``weights``, or those in the file at this path.

    Raises:
        InputError: if they cannot be downloaded or read, or the file holds something else.
    """
    published = library.read_published(arch, weights)
    state = get_weights(read_checkpoint(weights) if published is None else published, weights)
    own = {OWN_PREFIX.sub("", name): value for name, value in state.items() if OWN_PREFIX.match(name)}
    return own or state


def load_all_but_output(network: nn.Module, output_layer: str, library: Library, arch: str, weights: str) -> None:
    """Load the weights of one of a library's networks, except those of its output layer.

    Args:
        network: the network.
        output_layer: the name of its output layer, whose weights stay as they are.
        library, arch: the network's library, and its name there.
        weights: as for `read_pretrained`.

    Raises:
        InputError: as `read_pretrained`, or if they are not of such a network.
    """
    read = read_pretrained(library, arch, weights)
    named = ((OLD_DENSENET_NAME.sub(r"\1\2", name), value) for name, value in read.items())
    state = OrderedDict((name, value) for name, value in named if not name.startswith(AUXILIARY_OUTPUTS))
    own = network.state_dict()
    state.update((name, value) for name, value in own.items() if name.startswith(f"{output_layer}."))
    # The version of the network's own file; parts without one update old names by themselves.
    state._metadata = {"": {"version": network._version}}  # type: ignore[attr-defined]
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        wrong = [*re.findall(r"size mismatch for (\S+):", str(error)), "its weights"]
        raise InputError(f"model.weights={weights} does not fit model.arch={arch} at {wrong[0]}") from error
    if missing or unexpected:
        what = f"it lacks {missing[0]}" if missing else f"this network has no {unexpected[0]}"
        raise InputError(f"model.weights={weights} does not fit model.arch={arch}: {what}")
