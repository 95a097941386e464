"""Torchvision's classification networks by name, with an output layer of the width that the data need."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
import torchvision.models
from torch import nn

from src.core.checks import format_value
from src.core.errors import InputError
from src.models.published.weights import get_published

MAX_SIDE = 600  # pixels; every network takes images of some size up to it
SMALL_SIDE = 64  # pixels; images below it keep more of their resolution with a small stem
EXAMPLES = "convnext_tiny, efficientnet_b0, mobilenet_v3_small, resnet50 or vit_b_16"
WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")


def list_networks() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def find_wrong_name(arch: str) -> str | None:
    """Return what is wrong with a name that is none of torchvision's classification networks, with the nearest."""
    if arch in (names := list_networks()):
        return None
    near = difflib.get_close_matches(arch.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(names)}, such as {EXAMPLES}"
    return f"model.arch={format_value(arch)}: torchvision has no such classification network, {hint}"


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
    published = get_published(arch, weights)
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


def use_small_stem(network: nn.Module) -> bool:
    """Let the first convolution move by one pixel at a time, for small images; its weights keep their shape.

    Returns:
        False if it moves by one pixel as it is, or cuts the image into patches, and nothing has changed.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if max(first.stride) == 1 or first.stride == first.kernel_size:
        return False
    first.stride = (1, 1)
    return True


def check_image_size(network: nn.Module, arch: str, size: Sequence[int]) -> None:
    """Refuse images of a size that a network does not take.

    Args:
        network: the network.
        arch: its name, for the message.
        size: of the images, (H, W).

    Raises:
        InputError: naming a size that it takes: the smallest of its published weights, or else the nearest.
    """
    height, width = size
    mode = network.training
    network.eval()
    if not _takes_images(network, height, width):
        usual = torchvision.models.get_model_weights(arch).DEFAULT.meta["min_size"][0]
        sides = [usual, *sorted(range(1, MAX_SIDE), key=lambda side: abs(side - min(size)))]
        near = next(side for side in sides if _takes_images(network, side, side))
        raise InputError(
            f"model.arch={arch} does not take images of {height}×{width} pixels: "
            f"scale them to {near}×{near} with model.resize={near}"
        )
    network.train(mode)


def _takes_images(network: nn.Module, height: int, width: int) -> bool:
    """Return True if a network in evaluation mode computes outputs for images of this size; nothing is calculated."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            torch.func.functional_call(network, shapes, torch.zeros(1, 3, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True
