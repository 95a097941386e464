"""Torchvision's classification networks by name, with an output layer of the width that the data need."""

from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import nn
from torchvision.models import WeightsEnum

from src.core.errors import InputError
from src.models.published.library import describe_wrong_name
from src.storage.weights import read_checkpoint

EXAMPLES = "convnext_tiny, efficientnet_b0, mobilenet_v3_small, resnet50 or vit_b_16"
WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")


def list_networks() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def find_wrong_name(arch: str) -> str | None:
    """Return what is wrong with a name that is none of torchvision's classification networks, with the nearest."""
    return describe_wrong_name(arch, list_networks(), "torchvision", EXAMPLES)


def get_published_names(arch: str) -> list[str]:
    """Return the names of the weights that torchvision publishes for a network; DEFAULT stands for the best."""
    return list(torchvision.models.get_model_weights(arch).__members__)


def get_usual_side(arch: str) -> int:
    """Return the smallest side in pixels of the images that a network's best published weights take."""
    return int(torchvision.models.get_model_weights(arch).DEFAULT.meta["min_size"][0])


def build_network(arch: str, out_features: int, side: int, weights: str | None) -> nn.Module:
    """Return a network with random weights: (B, 3, H, W) → (B, out_features).

    Args:
        arch: a name in `list_networks`.
        out_features: width of the output layer.
        side: of the images in pixels; a vision transformer is built for one size.
        weights: the name of the published weights that it is to start from; any other text has no influence.

    Raises:
        InputError: if there is no such network.
    """
    if wrong := find_wrong_name(arch):
        raise InputError(wrong)
    published = _get_published(arch, weights)
    settings: dict[str, Any] = {"num_classes": out_features}
    if arch in WITH_AUXILIARY_OUTPUTS:  # their published weights were trained on inputs between −1 and 1
        settings |= {"aux_logits": False, "init_weights": True, "transform_input": published is not None}
    if arch.startswith("vit_"):
        patch = int(arch.rpartition("_")[2])
        settings["image_size"] = published.meta["min_size"][0] if published else -(-side // patch) * patch
    network: nn.Module = torchvision.models.get_model(arch, **settings)
    if isinstance(network, torchvision.models.SqueezeNet) and out_features == 1:
        network.classifier[2] = nn.Identity()  # after a ReLU, one output could not be negative
    return network


def find_output_layer(network: nn.Module) -> str:
    """Return the name of the layer that computes the outputs: the last one, linear or a convolution."""
    return [name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]


def read_published(arch: str, weights: str) -> dict[str, Any] | None:
    """Return published weights from torch's cache, downloaded there first if need be; ``None`` if there are none.

    Raises:
        InputError: if they cannot be downloaded, or the file does not match the digest in its name.
    """
    published = _get_published(arch, weights)
    return None if published is None else _read_file(weights, published.url)


def _get_published(arch: str, name: str | None) -> WeightsEnum | None:
    return torchvision.models.get_model_weights(arch)[name] if name in get_published_names(arch) else None


def _read_file(name: str, url: str) -> dict[str, Any]:
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
