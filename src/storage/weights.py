"""Checkpoints: their tensors and plain values, and weights that are loaded from them."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch.nn.parameter import is_lazy

from src.core.errors import InputError
from src.storage.files import open_atomic
from src.storage.moved import update_names
from src.storage.tensors import read_safetensors, read_tensors


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically."""
    with open_atomic(path) as file:
        torch.save(content, file)


def read_checkpoint(path: str | Path, digest: str | None = None) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values.

    Args:
        path: the file; one of weights alone may be in the format of safetensors (NAME.safetensors).
        digest: the first digits of its SHA-256, if known.

    Raises:
        InputError: if the file is missing, damaged or holds something else.
    """
    if Path(path).suffix == ".safetensors":
        return dict(read_safetensors(Path(path)))
    content = read_tensors(Path(path), digest)
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds no weights")
    return {key: update_names(value) if key.endswith("hyper_parameters") else value for key, value in content.items()}


def load_weights(module: torch.nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's weights into a module of the same shape; return the checkpoint's whole content.

    Raises:
        InputError: as `read_checkpoint`, or if the weights do not fit.
    """
    content = read_checkpoint(path)
    state = get_weights(content, path)
    check_fit(module, state, path)
    try:
        module.load_state_dict(state)
    except InputError:
        raise
    except Exception as error:  # a module may store custom state in addition to tensors
        raise InputError(f"checkpoint {path} does not fit the model ({type(error).__name__})") from error
    return content


def get_weights(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the weights by name from a run's checkpoint, or from a file that contains only weights.

    Raises:
        InputError: if there are none.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"checkpoint {path} holds no weights")
    return state


def check_fit(module: torch.nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Refuse weights that do not fit a module.

    Raises:
        InputError: if names, shapes or data types (floating-point or not) differ.
    """
    if isinstance(module, LightningModule):
        module.configure_model()  # some create layers there; by contract it may be called twice
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own:
            where = "the checkpoint lacks it" if key not in state else "the model lacks it"
            raise InputError(f"checkpoint {path} does not fit the model: {key} ({where})")
        if key.endswith("_extra_state") or is_lazy(own[key]):  # any size fits
            continue
        here, there = _describe(own[key]), _describe(state[key])
        if here != there:
            raise InputError(f"checkpoint {path} does not fit the model: {key} has shape {there} there, {here} here")


def _describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return "none"
    return f"{tuple(value.shape)}" + ("" if value.is_floating_point() else f" of {value.dtype}")
