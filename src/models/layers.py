"""Layers that several networks are built from."""

import itertools
from collections.abc import Sequence

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def widths(hidden_size: int | Sequence[int]) -> list[int]:
    """``hidden_size`` as a list of layer widths: an int is one hidden layer, an empty list none."""
    return [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)


def dense(in_features: int, out_features: int, activation: str, dropout: float, batch_norm: bool) -> nn.Sequential:
    """One hidden layer: linear, batch norm, activation, dropout; (B, in_features) → (B, out_features)."""
    layers: list[nn.Module] = [nn.Linear(in_features, out_features, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm1d(out_features))
    layers.append(ACTIVATIONS[activation]())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def classifier(
    in_features: int,
    hidden_size: int | Sequence[int],
    out_features: int,
    activation: str,
    dropout: float,
    batch_norm: bool,
) -> nn.Sequential:
    """Hidden layers and a linear output layer; (B, in_features) → (B, out_features)."""
    sizes = [in_features, *widths(hidden_size)]
    hidden = [dense(a, b, activation, dropout, batch_norm) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], out_features))
