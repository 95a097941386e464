"""What a library of networks offers, and what is the same for the networks of all libraries."""

import copy
import difflib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from src.core.checks import format_value
from src.core.errors import InputError

MAX_SIDE = 600  # pixels; the nearest size that a network takes is looked for up to it
SMALL_SIDE = 64  # pixels; images below it keep more of their resolution with a small stem


class Library(Protocol):
    """A module of functions about a library's networks; ``arch`` is a network's name there."""

    def find_wrong_name(self, arch: str) -> str | None:
        """Return what is wrong with a name that is none of the library's networks, with the nearest."""

    def get_published_names(self, arch: str) -> list[str]:
        """Return the names of the weights that are published for a network; DEFAULT stands for the best."""

    def build_network(self, arch: str, out_features: int, side: int, weights: str | None) -> nn.Module:
        """Return a network with random weights: (B, 3, H, W) → (B, out_features)."""

    def find_output_layer(self, network: nn.Module) -> str:
        """Return the name of the layer that computes the outputs."""

    def get_usual_side(self, arch: str) -> int:
        """Return the side in pixels of the images that a network was made for."""

    def read_published(self, arch: str, weights: str) -> dict[str, Any] | None:
        """Return published weights, downloaded if need be; ``None`` if there are none of this name."""


def describe_wrong_name(arch: str, names: Sequence[str], library: str, examples: str) -> str | None:
    """Return what is wrong with a network's name that is none of ``names``, with the nearest."""
    if arch in names:
        return None
    near = difflib.get_close_matches(arch.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(names)}, such as {examples}"
    return f"model.arch={format_value(arch)}: {library} has no such classification network, {hint}"


def use_small_stem(network: nn.Module, size: Sequence[int]) -> bool:
    """Let the first convolution move by one pixel at a time, for small images; its weights keep their shape.

    Args:
        network: the network.
        size: of the images, (H, W).

    Returns:
        False if it moves by one pixel as it is, cuts the image into patches, or the network does not take such images
        then; nothing has changed.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if max(first.stride) == 1 or first.stride == first.kernel_size:
        return False
    published, first.stride = first.stride, (1, 1)
    if fits := _takes_images(_copy_shapes(network), *size):
        return fits
    first.stride = published  # parallel layers skip pixels, too, or the images are too small in any case
    return False


def check_image_size(network: nn.Module, arch: str, size: Sequence[int], usual: int) -> None:
    """Refuse images of a size that a network does not take.

    Args:
        network: the network.
        arch: its name, for the message.
        size: of the images, (H, W).
        usual: the side that it was made for.

    Raises:
        InputError: naming a size that it takes: the usual one, or else the nearest.
    """
    (height, width), shapes = size, _copy_shapes(network)
    if not _takes_images(shapes, height, width):
        sides = [usual, *sorted(range(1, MAX_SIDE), key=lambda side: abs(side - min(size)))]
        near = next((side for side in sides if _takes_images(shapes, side, side)), None)
        if near is not None:  # else it cannot run without calculating, and the first batch will tell
            raise InputError(
                f"model.arch={arch} does not take images of {height}×{width} pixels: "
                f"scale them to {near}×{near} with model.resize={near}"
            )


def _copy_shapes(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode that has the shapes of its weights and no values."""
    return copy.deepcopy(network).to("meta").eval()


def _takes_images(shapes: nn.Module, height: int, width: int) -> bool:
    """Return True if a network, as `_copy_shapes` returns it, has outputs for images of this size."""
    try:
        with torch.no_grad():
            shapes(torch.zeros(1, 3, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True
