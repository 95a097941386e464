"""Networks that a stack trains although no choice in conf/ names them."""

from typing import Any

from torch import Tensor, nn

from src.models.base import Settings
from src.models.cnn import CNN


class TwoGroups(CNN):
    """A CNN whose batch norms have scales that stay and biases that are trained four times as fast."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in self.norms:
            norm.weight.requires_grad_(False)

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        biases = {norm.bias for norm in self.norms}
        others = [weight for weight in self.parameters() if weight not in biases]
        return [{"params": others, "lr": lr}, {"params": [norm.bias for norm in self.norms], "lr": 4 * lr}]


class PooledNet(nn.Module):
    """Two convolutions, the largest value of each channel, and outputs times 0.5."""

    def __init__(self, in_channels: int, out_features: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, 4, 3, padding=1, bias=False) for width in (in_channels, 4))
        block = [first, nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.GELU(), second, nn.BatchNorm2d(4), nn.GELU()]
        self.features, self.classifier = nn.Sequential(*block, nn.AdaptiveMaxPool2d(1)), nn.Linear(4, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1)) * 0.5


class Pooled(CNN):
    """A model of a `PooledNet`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.net = PooledNet(self.in_shape[0], self.out_features)  # type: ignore[assignment]
