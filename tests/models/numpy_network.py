"""A network of two layers and its training in NumPy alone: the reference that autograd is held to.

Rows are samples, so that the course's equations read, with δ (N, units) for a mean over N samples:

    1   δ² = ∂C/∂a² ⊙ σ'(z²)
    2   δ¹ = (δ² w²) ⊙ σ'(z¹)
    3   ∂C/∂b = Σ δ, over the samples
    4   ∂C/∂w = δᵀ a, a being what came in
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Arrays = dict[str, Array]
Cost = Callable[[Array, Array], tuple[float, Array]]  # z (N, K), one-hot y (N, K) → the mean cost, and δ² (N, K)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {  # σ and σ'
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def quadratic(z: Array, y: Array) -> tuple[float, Array]:
    """C = ½ Σ (a − y)², a = σ(z)."""
    a = sigmoid(z)
    return float(0.5 * ((a - y) ** 2).sum() / len(z)), (a - y) * a * (1 - a) / len(z)


def cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
    """C = −Σ y ln a, a = softmax(z): σ' cancels and δ² is a − y."""
    a = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return float(-(y * np.log(a)).sum() / len(z)), (a - y) / len(z)


def one_vs_rest(z: Array, y: Array) -> tuple[float, Array]:
    """C = −Σ y ln a + (1 − y) ln(1 − a), a = σ(z): here too δ² is a − y."""
    a = sigmoid(z)
    return float(-(y * np.log(a) + (1 - y) * np.log(1 - a)).sum() / len(z)), (a - y) / len(z)


COSTS: dict[str, Cost] = {"quadratic": quadratic, "cross_entropy": cross_entropy, "one_vs_rest": one_vs_rest}


class BatchNormOutput(NamedTuple):
    """What batch norm made of its inputs (N, H), and what its gradients need."""

    outputs: Array
    hat: Array  # before scale and shift
    scale: Array  # γ / √(variance + ε), (H,)
    of_batch: bool  # whether mean and variance are the batch's own, and so depend on each input

    def backward(self, delta: Array) -> tuple[Array, Arrays]:
        """∂C/∂outputs (N, H) → ∂C/∂inputs (N, H), and the gradients of γ and β."""
        gradients = {"gamma": (delta * self.hat).sum(axis=0), "beta": delta.sum(axis=0)}
        if self.of_batch:
            delta = delta - delta.mean(axis=0) - self.hat * (delta * self.hat).mean(axis=0)
        return self.scale * delta, gradients


def batch_norm(
    x: Array, parameters: Arrays, running: tuple[Array, Array] | None, epsilon: float = 1e-5
) -> BatchNormOutput:
    """Normalise by the batch's mean and biased variance, or by running ones (mean and variance)."""
    mean, variance = (x.mean(axis=0), x.var(axis=0)) if running is None else running
    hat = (x - mean) / np.sqrt(variance + epsilon)
    scale = parameters["gamma"] / np.sqrt(variance + epsilon)
    return BatchNormOutput(parameters["gamma"] * hat + parameters["beta"], hat, scale, running is None)


class Network:
    """x → w1 x + b1 → σ → w2 a + b2, batch norm before or after σ, dropout behind.

    Args:
        parameters: w1 (H, D), b1 (H,), w2 (K, H), b2 (K,); with batch norm also gamma and beta (H,),
            and no b1 where it stands before σ.
        activation: a name in `ACTIVATIONS`.
        norm: "before" or "after" σ; ``None`` for none.
        running: batch norm's running mean and variance to normalise by; ``None``: the batch's own.
        factors: what dropout multiplies the hidden units by, (N, H); 1: no dropout.
    """

    def __init__(
        self,
        parameters: Arrays,
        activation: str,
        norm: str | None = None,
        running: tuple[Array, Array] | None = None,
        factors: Array | float = 1.0,
    ) -> None:
        self.parameters, self.norm, self.running, self.factors = parameters, norm, running, factors
        self.activation, self.slope = ACTIVATIONS[activation]

    def forward(self, x: Array) -> Array:
        """Inputs (N, D) → outputs (N, K)."""
        p = self.parameters
        z = x @ p["w1"].T + p.get("b1", 0.0)
        if self.norm == "before":
            self.normalised = batch_norm(z, p, self.running)
            z = self.normalised.outputs
        a = self.activation(z)
        if self.norm == "after":
            self.normalised = batch_norm(a, p, self.running)
            a = self.normalised.outputs
        self.x, self.z, self.a = x, z, a * self.factors
        return self.a @ p["w2"].T + p["b2"]

    def gradients(self, x: Array, y: Array, cost: Cost) -> tuple[float, Arrays]:
        """The mean cost over inputs (N, D) with one-hot targets (N, K), and its gradient in each parameter."""
        value, delta = cost(self.forward(x), y)  # equation 1
        gradients = {"w2": delta.T @ self.a, "b2": delta.sum(axis=0)}  # equations 4 and 3
        delta = (delta @ self.parameters["w2"]) * self.factors
        if self.norm == "after":
            delta, scaling = self.normalised.backward(delta)
            gradients |= scaling
        delta = delta * self.slope(self.z)  # equation 2
        if self.norm == "before":
            delta, scaling = self.normalised.backward(delta)
            gradients |= scaling
        gradients |= {"w1": delta.T @ self.x, "b1": delta.sum(axis=0)}
        return value, {name: gradients[name] for name in self.parameters}


class Momentum:
    """v ← μ v + g; w ← w − η v."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr, self.momentum = lr, momentum
        self.velocity: Arrays = {}

    def step(self, parameters: Arrays, gradients: Arrays) -> Arrays:
        for name, gradient in gradients.items():
            self.velocity[name] = self.momentum * self.velocity.get(name, 0.0) + gradient
        return {name: value - self.lr * self.velocity[name] for name, value in parameters.items()}


class Adam:
    """m and v are decaying means of g and g², 0 at first, which 1 − βᵗ makes up for (Kingma & Ba, 2015)."""

    def __init__(self, lr: float, betas: tuple[float, float], epsilon: float = 1e-8) -> None:
        self.lr, self.betas, self.epsilon = lr, betas, epsilon
        self.first: Arrays = {}
        self.second: Arrays = {}
        self.steps = 0

    def step(self, parameters: Arrays, gradients: Arrays) -> Arrays:
        (one, two), after = self.betas, {}
        self.steps += 1
        for name, gradient in gradients.items():
            self.first[name] = one * self.first.get(name, 0.0) + (1 - one) * gradient
            self.second[name] = two * self.second.get(name, 0.0) + (1 - two) * gradient**2
            mean, square = self.first[name] / (1 - one**self.steps), self.second[name] / (1 - two**self.steps)
            after[name] = parameters[name] - self.lr * mean / (np.sqrt(square) + self.epsilon)
        return after
