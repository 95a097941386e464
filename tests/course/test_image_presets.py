"""Presets on images, on small files in the real ones' formats: what each is made of, and that it learns."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from omegaconf import DictConfig
from torch.nn import functional as F

from src.data.cifar10 import CIFAR10
from src.models.layers import Whitening
from src.models.nearest_neighbor import NearestNeighbor
from tests.command_line import (
    drop_seconds,
    get_image_settings,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    train,
    train_bare,
)
from tests.course.presets import Begun, State, composed, scores, sizes
from tests.trouble import FOLDER, FaultInjector


class Recipe(NamedTuple):
    """A preset as the course has it; rate and epochs where the course gives them."""

    layers: list[list[int]] | tuple[int, int]  # (out, in); of a CNN the images' channels and side
    optimiser: str
    batch: int
    rate: float | None = None
    epochs: int | None = None
    loss: str = "cross_entropy"
    activation: str = "relu"
    standardised: bool = True


def make_cnn_layers(model: DictConfig, channels: int, side: int) -> list[list[int]]:
    """The shapes of a CNN's weights, its widths as the preset has them: blocks that each halve the side, two layers."""
    widths, hidden = list(model.channels), model.hidden_size
    assert len(widths) >= 2 and widths == sorted(widths)
    kernels = [[after, before, 3, 3] for before, after in pairwise([channels, *widths])]
    return [*kernels, [hidden, widths[-1] * (side >> len(widths)) ** 2], [10, hidden]]


PIXELS = 28 * 28
ONE, WIDE = [[100, PIXELS], [10, 100]], [[512, PIXELS], [512, 512], [10, 512]]
DEEP = [[64, PIXELS], *[[64, 64]] * 7, [10, 64]]
RECIPES = {
    "experiment=numpy_mlp": Recipe(ONE, "SGD", 100, 0.0005, 200, "one_vs_rest", "sigmoid", standardised=False),
    "experiment=mnist_quadratic": Recipe(
        [[15, PIXELS], [10, 15]], "SGD", 10, 3.0, None, "quadratic", "sigmoid", standardised=False
    ),
    "experiment=mnist_mlp": Recipe(ONE, "Adam", 32, 0.001, 5, standardised=False),
    "experiment=mnist_mlp_dropout": Recipe(WIDE, "AdamW", 128),
    "experiment=mnist_cnn": Recipe((1, 28), "SGD", 128),
    "experiment=fashion_mlp": Recipe(WIDE, "AdamW", 64),
    "experiment=fashion_cnn": Recipe((1, 28), "SGD", 128),
    "experiment=cifar10_mlp": Recipe([[1024, 3072], [512, 1024], [10, 512]], "AdamW", 128),
    "experiment=cifar10_cnn": Recipe((3, 32), "SGD", 128),
    "experiment=vanishing_gradient": Recipe(DEEP, "SGD", 128, activation="sigmoid"),
}


@pytest.mark.parametrize("preset", RECIPES)
def test_preset_follows_course_and_learns(preset: str, small: list[str], tmp_path: Path) -> None:
    """A preset has the layers, optimiser and data of the course, and its loss falls."""
    recipe, config = RECIPES[preset], composed(preset)
    assert recipe.epochs in (None, config.trainer.max_epochs)
    folder = train_bare(preset, *small, Begun.SETTING, "trainer.max_epochs=2", cwd=tmp_path).folder
    begun, settings = Begun.last, load_checkpoint(folder / "checkpoints" / "last.ckpt")["hyper_parameters"]
    is_cnn = isinstance(recipe.layers, tuple)
    assert sizes(begun.start) == (make_cnn_layers(config.model, *recipe.layers) if is_cnn else recipe.layers)
    assert type(begun.optimizer).__name__ == recipe.optimiser and recipe.rate in (None, begun.rate)
    assert len(begun.trained[0].targets) == recipe.batch
    assert (begun.model.loss_name, settings["activation"]) == (recipe.loss, recipe.activation)
    inputs = begun.trained[0].inputs
    assert bool(inputs.min() < 0) == recipe.standardised
    assert torch.equal((inputs * 255).round() / 255, inputs) != recipe.standardised  # pixels / 255, or not
    first, second = scores(folder, "train/loss")
    assert second < first


# The network that is tuned for speed


def fit_whitening(data: CIFAR10) -> Whitening:
    """The layer that decorrelates the patches of standardised training images."""
    assert data.train_set is not None
    layer = Whitening(3, 2)
    layer.fit((data.train_set.inputs - data.mean) / data.std)
    return layer


def test_fast_network_matches_airbench_and_learns(data_dir: Path, tmp_path: Path) -> None:
    """The fast network has Airbench's layers and learning rates, and its loss falls."""
    few = [*get_image_settings(data_dir), "data.batch_size=20", "data.train_size=60", "trainer.max_epochs=2"]
    folder = train_bare("experiment=cifar10_fast", *few, Begun.SETTING, cwd=tmp_path).folder
    begun = Begun.last
    widths = [24, 64, 64, 256, 256, 256, 256]
    assert sizes(begun.start) == [[24, 3, 2, 2], *[[b, a, 3, 3] for a, b in pairwise(widths)], [10, 256]]
    assert torch.equal(begun.start["net.features.0.weight"], fit_whitening(begun.data).weight)
    others, shifts = begun.optimizer.param_groups
    assert (others["max_lr"], others["weight_decay"]) == (1.5, 1.33e-3)
    assert (shifts["max_lr"], shifts["weight_decay"]) == (64 * 1.5, 1.33e-3 / 64)
    metrics = read_json(folder / "metrics.json")
    assert metrics["parameters"] == 1_972_792 and {"test/acc", "test/acc_flip"} <= set(metrics)
    first, second = scores(folder, "train/loss")
    assert second < first


def test_fast_network_resumes_bit_for_bit(data_dir: Path, tmp_path: Path) -> None:
    """The fast network, stopped and resumed, equals an uninterrupted run to the last bit."""
    few = [*get_image_settings(data_dir), "data.batch_size=4", "data.train_size=12", "trainer.max_epochs=2"]
    straight = train_bare("experiment=cifar10_fast", *few, "name=straight", cwd=tmp_path).folder
    trouble, stopped = tmp_path / FOLDER / "stopped", straight.with_name("stopped")
    trouble.parent.mkdir()
    trouble.write_text("raise")  # as the second epoch begins
    with pytest.raises(RuntimeError, match="in trouble"):
        train_bare("experiment=cifar10_fast", *few, "name=stopped", FaultInjector.SETTING, cwd=tmp_path)
    trouble.unlink()
    assert len(read_history(stopped)) == 1
    train(f"resume={stopped}", cwd=tmp_path)
    one, two = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (straight, stopped)]
    assert one["global_step"] == two["global_step"] == 6
    assert all(is_identical(one[part], two[part]) for part in ("state_dict", "optimizer_states", "lr_schedulers"))
    assert read_history(straight) == read_history(stopped)
    assert drop_seconds(read_json(straight / "metrics.json")) == drop_seconds(read_json(stopped / "metrics.json"))


# The book's network


def test_book_network_initial_weights(small: list[str], tmp_path: Path) -> None:
    """The book's network starts with small normal weights and zero biases."""
    train_bare("experiment=numpy_mlp", *small, Begun.SETTING, "trainer.max_epochs=1", cwd=tmp_path)
    hidden, hidden_bias, output, output_bias = Begun.last.start.values()
    assert hidden.std().item() == pytest.approx(0.1, rel=0.02) and output.std().item() == pytest.approx(0.1, rel=0.1)
    assert abs(hidden.mean().item()) < 0.002 and (hidden.abs() > 0.2).float().mean().item() == pytest.approx(
        0.0455, 0.1
    )
    assert not hidden_bias.any() and not output_bias.any()


def test_book_network_takes_documented_step(small: list[str], tmp_path: Path) -> None:
    """A step of the book's network follows the gradient of the summed losses plus the penalty."""
    folder = train_bare("experiment=numpy_mlp", *small, Begun.SETTING, "trainer.max_epochs=1", cwd=tmp_path).folder
    ((inputs, targets),) = Begun.last.trained  # one batch of 100; the other 60 samples are left out
    w1, b1, w2, b2 = Begun.last.start.values()
    hidden = (inputs.flatten(1) @ w1.T + b1).sigmoid()  # (100, 100)
    errors = (hidden @ w2.T + b2).sigmoid() - F.one_hot(targets, 10)  # (100, 10)
    after = list(read_weights(folder).values())
    torch.testing.assert_close(after[2], w2 - 0.0005 * (errors.T @ hidden + 0.01 * w2), rtol=0, atol=1e-6)
    torch.testing.assert_close(after[3], b2 - 0.0005 * errors.sum(dim=0), rtol=0, atol=1e-6)


# Nearest neighbours


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_training_image_is_own_nearest_neighbour(distance: str, data_dir: Path, tmp_path: Path) -> None:
    files = get_image_settings(data_dir)
    outcome = train_bare("experiment=nearest_neighbor", *files, f"model.distance={distance}", cwd=tmp_path)
    path = outcome.folder / "checkpoints" / "last.ckpt"
    model = NearestNeighbor.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    memory = model.inputs  # (200, 3072), bytes
    images = CIFAR10(root=str(data_dir), verify=False, batch_size=10, val_size=0, standardize=False).load()[0].inputs
    assert sorted(memory.tolist()) == sorted(images.flatten(1).tolist())  # all of them, as they are
    model.targets = torch.arange(200)  # so that an image is found by its number
    assert model.find_neighbor_targets(memory / 255).flatten().tolist() == list(range(200))
    assert (outcome.metrics["parameters"], outcome.metrics["epochs"]) == (0, 1)
    assert outcome.metrics["test/acc"] == 1.0  # the small images of a class are alike


# Transfer

THREE = ("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=3")  # three epochs, one (large) checkpoint


def select_backbone(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith("net.backbone.")}


def test_transfer_presets_share_budget() -> None:
    """The presets compared in the transfer experiment have the same data, optimiser and epochs."""
    names = ["experiment=resnet18_scratch", "experiment=resnet18_finetune", "experiment=resnet18_frozen"]
    scratch, finetune, frozen = [composed(name) for name in names]
    for part in ("data", "optimizer", "scheduler", "trainer"):
        assert scratch[part] == finetune[part] == frozen[part]
    assert scratch.data._target_.endswith(".FashionMNIST") and scratch.data.train_size == 5000
    assert scratch.model.stem == finetune.model.stem == composed("experiment=resnet18_pretrain").model.stem
    assert (scratch.model.weights, finetune.model.weights) == (None, frozen.model.weights)
    assert (scratch.model.freeze, finetune.model.freeze, frozen.model.freeze) == ("none", "none", "backbone")


def test_pretraining_learns(pretrained: Path) -> None:
    folder = pretrained / "outputs" / "runs" / "resnet18_pretrain"
    learned = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert list(learned["hyper_parameters"]["in_shape"]) == [3, 32, 32]
    assert learned["state_dict"]["net.backbone.conv1.weight"].shape == (64, 3, 7, 7)
    losses = scores(folder, "train/loss")
    assert losses[-1] < 0.7 * losses[0]


def test_frozen_backbone_keeps_pretrained_weights(small: list[str], pretrained: Path, tmp_path: Path) -> None:
    """A frozen backbone keeps its pretrained weights while a new head is trained."""
    path = pretrained / "outputs" / "runs" / "resnet18_pretrain" / "checkpoints" / "best.ckpt"
    settings = [f"model.weights={path}", "data.train_size=64", Begun.SETTING, *THREE]
    folder = train_bare("experiment=resnet18_frozen", *small, *settings, cwd=tmp_path).folder
    learned, start, end = load_checkpoint(path)["state_dict"], Begun.last.start, read_weights(folder)
    assert is_identical(select_backbone(end), select_backbone(learned)) and len(select_backbone(end)) == 120
    assert not torch.equal(start["net.head.1.weight"], learned["net.head.1.weight"])  # a head of its own
    assert not torch.equal(start["net.head.1.weight"], end["net.head.1.weight"])
    losses = scores(folder, "train/loss")
    assert losses[-1] < losses[0]


def test_fine_tuning_moves_backbone_slowly(small: list[str], pretrained: Path, tmp_path: Path) -> None:
    """Fine-tuning starts from the pretrained backbone and trains it at 0.3 times the head's rate."""
    settings = ["data.train_size=64", "trainer.max_epochs=1", Begun.SETTING]
    folder = train_bare("experiment=resnet18_finetune", *small, *settings, cwd=pretrained).folder
    path = pretrained / "outputs" / "runs" / "resnet18_pretrain" / "checkpoints" / "best.ckpt"
    assert is_identical(select_backbone(Begun.last.start), select_backbone(load_checkpoint(path)["state_dict"]))
    assert not torch.equal(
        read_weights(folder)["net.backbone.conv1.weight"], Begun.last.start["net.backbone.conv1.weight"]
    )
    slower, faster = [group["max_lr"] for group in Begun.last.optimizer.param_groups]
    assert slower == pytest.approx(0.3 * faster)


def test_scratch_run_learns_without_pretrained_weights(small: list[str], tmp_path: Path) -> None:
    settings = ["data.train_size=32", "data.batch_size=16", Begun.SETTING, *THREE]
    folder = train_bare("experiment=resnet18_scratch", *small, *settings, cwd=tmp_path).folder
    assert Begun.last.start["net.backbone.conv1.weight"].shape == (64, 3, 7, 7)
    losses = scores(folder, "train/loss")
    assert losses[-1] < 0.7 * losses[0]


# The pictures of the bundle


def test_photograph_figures_are_drawn(small: list[str], tmp_path: Path) -> None:
    few = ["data.train_size=32", "trainer.max_epochs=1", "logger=none", "optimizer.lr=1e-9"]
    few += ["model.channels=[4,4]", "model.hidden_size=8"]  # fewer pictures of filters and of their outputs
    folder = train("experiment=cifar10_cnn", *small, *few, cwd=tmp_path).folder
    every = {"curves", "samples", "confusion_matrix", "misclassified"}
    images = {"augmented_batch", "first_layer", "feature_maps", "class_probabilities", "class_accuracy"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == every | images
