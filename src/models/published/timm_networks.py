"""timm's networks by name, with an output layer of the width that the data need; timm is an extra."""

import logging
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from src.core.errors import InputError
from src.core.extras import require_package
from src.models.published.library import describe_wrong_name

log = logging.getLogger(__name__)
EXAMPLES = "convnext_atto, efficientnet_b0, mobilenetv4_conv_small, resnet26d or vit_tiny_patch16_224"
USUAL_SIDE = 224  # pixels, of a network without a description


def _import_timm() -> Any:
    require_package("timm", "timm", "model=timm")
    import timm

    return timm


def find_wrong_name(arch: str) -> str | None:
    """Return what is wrong with a name that is none of timm's networks, with the nearest."""
    names = _import_timm().list_models()
    name, _, tag = arch.partition(".")
    if tag and name in names:
        return f"model.arch={arch}: {tag} names weights, so give model.arch={name} model.weights={tag}"
    return describe_wrong_name(arch, names, "timm", EXAMPLES)


def get_published_names(arch: str) -> list[str]:
    """Return the names of the weights that timm offers for a network (its tags); DEFAULT stands for its choice."""
    found = _import_timm().list_models([arch, f"{arch}.*"], pretrained=True)
    return [*(tag for name in found if (tag := name.partition(".")[2])), "DEFAULT"] if found else []


def get_usual_side(arch: str) -> int:
    """Return the side in pixels of the images that a network was made for."""
    described = _import_timm().get_pretrained_cfg(arch)
    return int(described.input_size[-1]) if described else USUAL_SIDE


def build_network(arch: str, out_features: int, side: int, weights: str | None) -> nn.Module:
    """Return a network with random weights: (B, 3, H, W) → (B, out_features).

    Args:
        arch: a network's name in timm.
        out_features: width of the output layer.
        side: of the images in pixels; a network for one size is built for it, if it starts from no published weights.
        weights: the name of the published weights that it is to start from; any other text has no influence.

    Raises:
        InputError: if there is no such network.
    """
    if wrong := find_wrong_name(arch):
        raise InputError(wrong)
    timm = _import_timm()
    described, network = timm.get_pretrained_cfg(arch), None
    if described and described.fixed_input_size and weights not in get_published_names(arch):
        with suppress(TypeError, ValueError, AssertionError):  # it knows no other size, or not this one
            network = timm.create_model(arch, num_classes=out_features, img_size=side)
    made: nn.Module = network or timm.create_model(arch, num_classes=out_features)
    return made


def find_output_layer(network: nn.Module) -> str:
    """Return the name of the layer that computes the outputs.

    Raises:
        InputError: if there are several, or none.
    """
    described: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    name = described.get("classifier")
    if isinstance(name, str) and name:
        return name
    arch, count = described.get("architecture"), "several output layers" if name else "no output layer of its own"
    raise InputError(f"model.arch={arch} has {count}: choose a network with one")


def read_published(arch: str, weights: str) -> dict[str, Any] | None:
    """Return published weights from the cache of huggingface_hub or torch, downloaded there first if need be.

    Tells how the images looked that they were trained on.

    Returns:
        ``None`` if there are none of this name.

    Raises:
        InputError: if they cannot be downloaded.
    """
    if weights not in get_published_names(arch):
        return None
    name = arch if weights == "DEFAULT" else f"{arch}.{weights}"
    try:
        with torch.random.fork_rng(devices=[]):  # random weights are drawn before these replace them
            network = _import_timm().create_model(name, pretrained=True)
    except Exception as error:  # from the network, the disk, or a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"model.weights={weights} cannot be downloaded ({reason}): use model.weights=null or a file's path"
        ) from error
    used = network.pretrained_cfg
    mean, std = (list(map(float, used[key])) for key in ("mean", "std"))
    log.info("%s was trained with model.resize=%d data.mean=%s data.std=%s", name, used["input_size"][-1], mean, std)
    state: dict[str, Any] = network.state_dict()
    return state
