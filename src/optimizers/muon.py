"""An optimiser that uses Muon for matrices and AdamW for all other weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer


class Muon(Optimizer):
    """Muon, momentum with orthogonalised steps (Jordan et al., 2024), for matrices; AdamW for all other weights.

    `torch.optim.Muon` takes matrices only, so `torch.optim.AdamW` trains biases, batch norms and the filters of
    convolutions. Muon's steps are scaled to the size of AdamW's (Liu et al., 2025), so that one learning rate and one
    weight decay suit both.

    Args:
        params: parameters, or groups of them that may have their own learning rates.
        lr: learning rate, > 0.
        weight_decay: decoupled weight decay, ≥ 0.
        momentum: Muon's momentum, in [0, 1).
        nesterov: use Nesterov momentum in Muon.
        betas: AdamW's decay rates of the means of gradient and squared gradient.
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
        groups = [part if isinstance(part, dict) else {"params": [part]} for part in params]
        defaults: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        split = [(group | {"params": part}) for group in groups for part in _split_matrices(group["params"])]
        super().__init__([group for group in split if group["params"]], defaults)
        matrices, others = self._select_groups(True), self._select_groups(False)
        self.optimizers: dict[bool, Optimizer] = {}
        if matrices:
            muon: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "adjust_lr_fn": "match_rms_adamw"}
            self.optimizers[True] = torch.optim.Muon(matrices, **defaults, **muon)
        if others:
            fused = others[0]["params"][0].device.type in ("cpu", "cuda")
            self.optimizers[False] = AdamW(others, **defaults, betas=(betas[0], betas[1]), fused=fused)

    def _select_groups(self, are_matrices: bool) -> list[dict[str, Any]]:
        """Return the parameter groups of matrices, or the other ones."""
        return [group for group in self.param_groups if (group["params"][0].ndim == 2) == are_matrices]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrices, part in self.optimizers.items():
            # Loading a checkpoint replaces groups and state: hand them to the two optimisers before each step.
            part.param_groups, part.state = self._select_groups(matrices), self.state
            part.step()
        return loss


def _split_matrices(parameters: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the matrices among parameters, and the other ones."""
    weights = list(parameters)
    return [weight for weight in weights if weight.ndim == 2], [weight for weight in weights if weight.ndim != 2]
