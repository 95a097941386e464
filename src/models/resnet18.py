"""ResNet18 (He et al., 2015, arXiv:1512.03385), trained from scratch or fine-tuned from pretrained weights."""

from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import InputError
from src.models.base import Settings
from src.models.images import ImageModule
from src.storage.weights import get_weights, read_checkpoint


class ResNet18Net(nn.Module):
    """torchvision's ResNet18 with an output layer of the right width; (B, 1 or 3, H, W) → (B, out_features).

    Grey images are expanded to three channels. With the original stem, a 7×7 convolution of stride 2
    and a pooling, a 32-pixel image ends up one pixel wide; the small stem is a 3×3 convolution.

    Args:
        out_features: width of the output layer.
        small_stem: use the stem for images of about 32 pixels.
        dropout: probability of dropping a feature before the output layer, in [0, 1).
        resize: side in pixels to scale images to; ``None`` leaves them as they are.
    """

    def __init__(self, out_features: int, small_stem: bool, dropout: float, resize: int | None) -> None:
        super().__init__()
        self.resize = resize
        self.backbone = torchvision.models.resnet18()
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        if small_stem:
            self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.backbone.maxpool = nn.Identity()
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1)  # (B, 1 or 3, H, W) → (B, 3, H, W)
        if self.resize:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear", antialias=True)
        return self.head(self.backbone(x))  # (B, 512) → (B, out_features)


class ResNet18(ImageModule):
    """ResNet18, for image sets.

    Args:
        weights: ``None`` for random weights; the name of torchvision's published ones
            ("IMAGENET1K_V1"); or the path of a checkpoint: one of a Thunderhead run, or a state dict of
            torchvision's resnet18. All but the output layer is loaded from it when a run starts.
        freeze: "none" trains all weights; "backbone" the output layer only; an int n the output layer
            only for the first n epochs, then all.
        backbone_lr_factor: the backbone's learning rate as a multiple of the head's, > 0; without
            ``weights`` it is 1.
        stem: "imagenet" (7×7, stride 2, pooling), "small" (3×3), or "auto": small unless
            ``weights`` names published ones.
        dropout: probability of dropping a feature before the output layer, in [0, 1).
        resize: side in pixels to scale images to; ``None`` leaves them as they are.
        settings: those of `ImageModule`.
    """

    net: ResNet18Net

    def __init__(
        self,
        weights: str | None,
        freeze: str | int,
        backbone_lr_factor: float,
        stem: str,
        dropout: float,
        resize: int | None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.weights, self.frozen_epochs = weights, freeze
        self.backbone_frozen = freeze not in ("none", 0)
        self.backbone_lr_factor = backbone_lr_factor if weights else 1.0
        small_stem = stem == "small" or (stem == "auto" and weights not in get_published_names())
        self.net = ResNet18Net(self.out_features, small_stem, dropout, resize)
        self.net.backbone.requires_grad_(freeze != "backbone")  # before DDP fixes this set

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1 and self.backbone_frozen and self.frozen_epochs != "backbone":
            raise InputError(
                f"model.freeze={self.frozen_epochs} cannot unfreeze under trainer=ddp, which fixes the trained "
                "weights at the start: use model.freeze=none or backbone"
            )
        if self.weights and not self.trainer.ckpt_path:  # a resumed run restores its own weights
            _load_backbone(self.net.backbone, self.weights)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.frozen_epochs, int) and self.current_epoch >= self.frozen_epochs:
            self.backbone_frozen = False
        self.net.backbone.requires_grad_(not self.backbone_frozen)
        self.train()

    def train(self, mode: bool = True) -> "ResNet18":
        """Set the mode, but keep a frozen backbone in evaluation mode so that its batch norms do not change."""
        super().train(mode)
        if self.backbone_frozen:
            self.net.backbone.eval()
        return self

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        return [
            {"params": list(self.net.backbone.parameters()), "lr": lr * self.backbone_lr_factor},
            {"params": list(self.net.head.parameters()), "lr": lr},
        ]


def get_published_names() -> list[str]:
    return [weights.name for weights in torchvision.models.ResNet18_Weights]


def _load_backbone(backbone: nn.Module, weights: str) -> None:
    """Load all weights but the output layer's, from published ones or a checkpoint's path.

    Raises:
        InputError: if they cannot be read, are not a ResNet18's, or do not fit this backbone.
    """
    content = _read_published(weights) if weights in get_published_names() else read_checkpoint(weights)
    state = get_weights(content, weights)
    prefix = "net.backbone."
    loaded = {
        key.removeprefix(prefix): value for key, value in state.items() if not key.startswith(("fc.", "net.head."))
    }
    expected = backbone.state_dict()
    if not any(key in loaded for key in expected):
        raise InputError(f"model.weights={weights} does not contain a ResNet18")
    wrong = [key for key in expected if getattr(loaded.get(key), "shape", None) != expected[key].shape]
    if wrong:
        raise InputError(
            f"model.weights={weights} does not fit this backbone at {wrong[0]}: "
            "choose model.stem=imagenet or small as it was trained with"
        )
    backbone.load_state_dict({key: loaded[key] for key in expected})


def _read_published(name: str) -> dict[str, Any]:
    """Read published weights from torch's cache, or download them there first.

    Raises:
        InputError: if they cannot be downloaded, or the file does not match the digest in its name.
    """
    url = torchvision.models.ResNet18_Weights[name].url
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
