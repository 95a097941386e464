"""Muon for the weights that are matrices, AdamW for all others."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal (Jordan et al., 2024), for matrices; beside it AdamW.

    PyTorch's own `torch.optim.Muon` takes matrices alone. Biases, batch norm and the filters of convolutions are
    trained by `torch.optim.AdamW` here. Muon's steps are as large as AdamW's (Liu et al., 2025), so that one learning
    rate and one decay suit both.

    Args:
        params: parameters, or groups of them that may have learning rates of their own.
        lr: learning rate, > 0.
        weight_decay: decoupled, ≥ 0.
        momentum: of Muon, in [0, 1).
        nesterov: whether Muon looks ahead.
        betas: AdamW's decay of the means of gradient and squared gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: Sequence[float] = (0.9, 0.999),
    ) -> None:
        groups = [each if isinstance(each, dict) else {"params": [each]} for each in params]
        own: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        split = [(group | {"params": each}) for group in groups for each in _split(group["params"])]
        super().__init__([group for group in split if group["params"]], own)
        matrices, others = self._of(True), self._of(False)
        self.parts: dict[bool, Optimizer] = {}
        if matrices:
            own_steps: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "adjust_lr_fn": "match_rms_adamw"}
            self.parts[True] = torch.optim.Muon(matrices, **own, **own_steps)
        if others:
            fused = others[0]["params"][0].device.type in ("cpu", "cuda")
            self.parts[False] = AdamW(others, **own, betas=(betas[0], betas[1]), fused=fused)

    def _of(self, matrices: bool) -> list[dict[str, Any]]:
        """Return the groups of matrices, or all others."""
        return [group for group in self.param_groups if (group["params"][0].ndim == 2) == matrices]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrices, part in self.parts.items():
            part.param_groups, part.state = self._of(matrices), self.state  # those of a checkpoint, if one was loaded
            part.step()
        return loss


def _split(parameters: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the matrices among parameters, and the others."""
    each = list(parameters)
    return [one for one in each if one.ndim == 2], [one for one in each if one.ndim != 2]
