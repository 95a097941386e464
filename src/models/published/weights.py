"""Pretrained weights: those that torchvision publishes, and those in a checkpoint, read without running code."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import nn
from torchvision.models import WeightsEnum

from src.core.errors import InputError
from src.storage.weights import get_weights, read_checkpoint

OWN_PREFIX = re.compile(r"^net\.(backbone|network)\.")  # of a backbone's weights in a run's checkpoint
AUXILIARY_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")  # of networks that were trained with several outputs
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # dots were allowed in names of layers


def get_published_names(arch: str) -> list[str]:
    """Return the names of the weights that torchvision publishes for a network; DEFAULT stands for the best."""
    return list(torchvision.models.get_model_weights(arch).__members__)


def get_published(arch: str, name: str | None) -> WeightsEnum | None:
    """Return a network's published weights by their name; ``None`` if there are none of this name."""
    return torchvision.models.get_model_weights(arch)[name] if name in get_published_names(arch) else None


def read_pretrained(arch: str, weights: str) -> dict[str, Any]:
    """Read a network's weights by name: those published as ``weights``, or those in the checkpoint at this path.

    Raises:
        InputError: if they cannot be downloaded or read, or the file holds something else.
    """
    published = get_published(arch, weights)
    content = read_checkpoint(weights) if published is None else _read_published(weights, published.url)
    state = get_weights(content, weights)
    own = {OWN_PREFIX.sub("", name): value for name, value in state.items() if OWN_PREFIX.match(name)}
    return own or state


def load_all_but_output(network: nn.Module, output_layer: str, arch: str, weights: str) -> None:
    """Load the weights of one of torchvision's networks, except those of its output layer.

    Args:
        network: the network.
        output_layer: the name of its output layer, whose weights stay as they are.
        arch: the network's name.
        weights: as for `read_pretrained`.

    Raises:
        InputError: as `read_pretrained`, or if they are not of such a network.
    """
    read = {OLD_DENSENET_NAME.sub(r"\1\2", name): value for name, value in read_pretrained(arch, weights).items()}
    state = OrderedDict((name, value) for name, value in read.items() if not name.startswith(AUXILIARY_OUTPUTS))
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


def _read_published(name: str, url: str) -> dict[str, Any]:
    """Read published weights from torch's cache, or download them there first.

    Raises:
        InputError: if they cannot be downloaded, or the file does not match the digest in its name.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    digest = file.stem.split("-")[-1]
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest)
    except Exception as error:  # from the network, the disk, or an incomplete file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"model.weights={name} cannot be downloaded ({reason}): put {file.name} into {file.parent}, or use "
            "model.weights=null or a checkpoint's path"
        ) from error
    return read_checkpoint(file, digest)
