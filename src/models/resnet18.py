"""ResNet18 (He et al., 2015, arXiv:1512.03385), trained from scratch or fine-tuned from pretrained weights."""

from typing import Any

import torchvision.models
from torch import Tensor, nn

from src.core.errors import InputError
from src.models.pretrained import PretrainedModule, prepare_colour
from src.models.published import networks
from src.models.published.weights import read_pretrained

ARCH = "resnet18"  # its name in torchvision


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
        x = prepare_colour(x, self.resize)  # (B, 1 or 3, H, W) → (B, 3, H, W)
        return self.head(self.backbone(x))  # (B, 512) → (B, out_features)


class ResNet18(PretrainedModule):
    """ResNet18, for image sets.

    Args:
        weights: ``None`` for random weights; the name of torchvision's published ones ("IMAGENET1K_V1", "DEFAULT"); or
            the path of a file: a checkpoint of a Thunderhead run, or a state dict of torchvision's resnet18
            (.safetensors or as torch.save writes it). All but the output layer is loaded from it when a run starts.
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
        super().__init__(weights, freeze, backbone_lr_factor, **settings)
        self.save_hyperparameters(logger=False)
        small_stem = stem == "small" or (stem == "auto" and weights not in networks.get_published_names(ARCH))
        self.net = ResNet18Net(self.out_features, small_stem, dropout, resize)
        self.set_backbone_trainable(freeze != "backbone")  # before DDP fixes this set

    def get_head(self) -> nn.Module:
        return self.net.head

    def load_backbone(self, weights: str) -> None:
        _load_backbone(self.net.backbone, weights)


def _load_backbone(backbone: nn.Module, weights: str) -> None:
    """Load all weights but the output layer's, from published ones or a checkpoint's path.

    Raises:
        InputError: if they cannot be read, are not a ResNet18's, or do not fit this backbone.
    """
    loaded = read_pretrained(networks, ARCH, weights)
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
