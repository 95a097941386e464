"""Networks for images that may start from pretrained weights, and all classification networks of two libraries."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import InputError
from src.models.base import Settings
from src.models.images import ImageModule
from src.models.published import networks, timm_networks
from src.models.published.library import SMALL_SIDE, Library, check_image_size, use_small_stem
from src.models.published.weights import load_all_but_output


class PretrainedModule(ImageModule):
    """A network (``net``) that may start from pretrained weights, of a backbone and a head for the data's classes.

    Args:
        weights: ``None`` for random weights; else what `load_backbone` reads when a run starts.
        freeze: "none" trains all weights; "backbone" the head only; an int n the head only for the first n epochs,
            then all.
        backbone_lr_factor: the backbone's learning rate as a multiple of the head's, > 0; without
            ``weights`` it is 1.
        settings: those of `ImageModule`.

    Raises:
        InputError: if the images have another number of channels than 1 or 3.
    """

    def __init__(self, weights: str | None, freeze: str | int, backbone_lr_factor: float, **settings: Any) -> None:
        super().__init__(**settings)
        if self.in_shape[0] not in (1, 3):
            raise InputError(f"{type(self).__name__} takes images of 1 or 3 channels, these have {self.in_shape[0]}")
        self.weights, self.frozen_epochs = weights, freeze
        self.backbone_frozen = freeze not in ("none", 0)
        self.backbone_lr_factor = backbone_lr_factor if weights else 1.0

    def get_head(self) -> nn.Module:
        """Return the part of the network that is trained even if the backbone is frozen."""
        raise AttributeError(f"{type(self).__name__} must define get_head()")

    def load_backbone(self, weights: str) -> None:
        """Load all weights but the head's.

        Raises:
            InputError: if they cannot be read or do not fit.
        """
        raise AttributeError(f"{type(self).__name__} must define load_backbone()")

    def get_backbone_parameters(self) -> list[nn.Parameter]:
        head = set(self.get_head().parameters())
        return [weight for weight in self.net.parameters() if weight not in head]

    def set_backbone_trainable(self, is_trainable: bool) -> None:
        for weight in self.get_backbone_parameters():
            weight.requires_grad_(is_trainable)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1 and self.backbone_frozen and self.frozen_epochs != "backbone":
            raise InputError(
                f"model.freeze={self.frozen_epochs} cannot unfreeze under trainer=ddp, which fixes the trained "
                "weights at the start: use model.freeze=none or backbone"
            )
        if self.weights and not self.trainer.ckpt_path:  # a resumed run restores its own weights
            self.load_backbone(self.weights)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.frozen_epochs, int) and self.current_epoch >= self.frozen_epochs:
            self.backbone_frozen = False
        self.set_backbone_trainable(not self.backbone_frozen)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep a frozen backbone in evaluation mode so that its batch norms do not change."""
        super().train(mode)
        if self.backbone_frozen:
            self.net.eval()
            self.get_head().train(mode)
        return self

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        return [
            {"params": self.get_backbone_parameters(), "lr": lr * self.backbone_lr_factor},
            {"params": list(self.get_head().parameters()), "lr": lr},
        ]


def prepare_colour(images: Tensor, resize: int | None) -> Tensor:
    """Return images as three channels, scaled to a side if one is given: (B, 1 or 3, H, W) → (B, 3, H, W)."""
    images = images.expand(-1, 3, -1, -1)
    return F.interpolate(images, size=(resize, resize), mode="bilinear", antialias=True) if resize else images


class NamedNet(nn.Module):
    """One of a library's networks with an output layer of the right width; (B, 1 or 3, H, W) → (B, out_features).

    Grey images are expanded to three channels.

    Args:
        library: the functions about its networks.
        in_shape: the images' shape (C, H, W).
        out_features: width of the output layer.
        arch, weights, stem, resize: as for `NamedNetwork`.
    """

    def __init__(
        self,
        library: Library,
        in_shape: Sequence[int],
        out_features: int,
        arch: str,
        weights: str | None,
        stem: str,
        resize: int | None,
    ) -> None:
        super().__init__()
        self.resize = resize
        size = [resize, resize] if resize else list(in_shape[1:])
        self.network = library.build_network(arch, out_features, max(size), weights)
        is_small = min(size) < SMALL_SIDE and weights not in library.get_published_names(arch)
        if stem == "small" or (stem == "auto" and is_small):
            has_changed = use_small_stem(self.network, size)
            if stem == "small" and not has_changed:
                raise InputError(
                    f"model.stem=small: {arch} has no first convolution that skips pixels by itself; leave it out"
                )
        self.output_layer = library.find_output_layer(self.network)
        check_image_size(self.network, arch, size, library.get_usual_side(arch))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(prepare_colour(x, self.resize))


class NamedNetwork(PretrainedModule):
    """A classification network of a library by its name there, for image sets. Its head is its last layer.

    Args:
        arch: the network's name, such as "resnet50".
        weights: ``None`` for random weights; the name of published ones ("DEFAULT" is the library's choice); or the
            path of a file: a checkpoint of a Thunderhead run, or a state dict of the library's network (.safetensors
            or as torch.save writes it). All but the output layer is loaded from it when a run starts.
        freeze, backbone_lr_factor: as for `PretrainedModule`.
        stem: "imagenet": as the library builds it; "small": its first convolution moves by one pixel at a time; "auto":
            small for images below `SMALL_SIDE` pixels, unless ``weights`` names published ones or there is no such
            convolution.
        resize: side in pixels to scale images to; ``None`` leaves them as they are.
        settings: those of `ImageModule`.

    Raises:
        InputError: if there is no such network, or the images have a size that it does not take.
    """

    library: ClassVar[Library]
    net: NamedNet

    def __init__(
        self,
        arch: str,
        weights: str | None,
        freeze: str | int,
        backbone_lr_factor: float,
        stem: str,
        resize: int | None,
        **settings: Any,
    ) -> None:
        super().__init__(weights, freeze, backbone_lr_factor, **settings)
        self.save_hyperparameters(logger=False)
        self.arch = arch
        self.net = NamedNet(self.library, self.in_shape, self.out_features, arch, weights, stem, resize)
        self.set_backbone_trainable(freeze != "backbone")  # before DDP fixes this set

    def get_head(self) -> nn.Module:
        return self.net.network.get_submodule(self.net.output_layer)

    def load_backbone(self, weights: str) -> None:
        load_all_but_output(self.net.network, self.net.output_layer, self.library, self.arch, weights)


class Torchvision(NamedNetwork):
    """A classification network of torchvision; its published weights are named as there, such as IMAGENET1K_V1."""

    library: ClassVar[Library] = networks


class Timm(NamedNetwork):
    """A network of timm; its published weights are named by their tags, such as a1_in1k."""

    library: ClassVar[Library] = timm_networks
