"""Torchvision's networks by name: what a run makes of them, and what it refuses."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import VisionTransformer

from src.core.errors import InputError
from src.models.pretrained import Torchvision
from src.models.published import networks
from src.models.published.networks import build_network, find_output_layer, list_networks
from src.models.published.weights import load_all_but_output
from tests.command_line import (
    BARE,
    evaluate,
    get_small_image_settings,
    is_identical,
    load_checkpoint,
    read_weights,
    run,
    train,
    train_bare,
)

SMALLEST = "shufflenet_v2_x0_5"
FEW = ("data.train_size=48", "trainer.max_epochs=1")
FIRST_LAYER = "+callbacks.first={_target_: src.callbacks.figures.first_layer.FirstLayer, count: 4, every_n_epochs: 0}"
FAMILIES = {  # a network of each, and its output layer
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_y_400mf": "fc",
    "resnet50": "fc",
    SMALLEST: "fc",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
    "vit_b_16": "heads.head",
}


def network(arch: str = SMALLEST, in_shape: tuple[int, ...] = (3, 32, 32), **settings: Any) -> Torchvision:
    given = {"weights": None, "freeze": "none", "backbone_lr_factor": 0.1, "stem": "auto", "resize": None}
    base = {"in_shape": list(in_shape), "num_classes": 10, "task": "multiclass"}
    return Torchvision(**{**given, **base, "arch": arch, **settings})


def run_small(data_dir: Path, cwd: Path, *settings: str, data: str = "cifar10") -> Any:
    few = get_small_image_settings(data, data_dir)
    return train_bare("model=torchvision", f"model.arch={SMALLEST}", *few, *FEW, *settings, cwd=cwd)


def refuse(data_dir: Path, cwd: Path, *settings: str) -> str:
    few = get_small_image_settings("cifar10", data_dir)
    return run("src.train", "model=torchvision", *BARE, *few, *FEW, *settings, cwd=cwd).error


def save_theirs(path: Path, arch: str = SMALLEST) -> dict[str, Tensor]:
    """Save a state dict in torchvision's own form, of random weights, which are returned."""
    torch.manual_seed(7)
    state: dict[str, Tensor] = torchvision.models.get_model(arch).state_dict()
    torch.save(state, path)
    return state


def split_weights(state: dict[str, Tensor], head: str = "fc.") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of backbone and head by torchvision's names, from a run's or from torchvision's own."""
    own = {name.removeprefix("net.network."): value for name, value in state.items()}
    parts = [{name: own[name] for name in own if name.startswith(head) == is_head} for is_head in (False, True)]
    return parts[0], parts[1]


def skip_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave weights as they are, which saves the time that the random numbers of large networks take."""
    for name in ("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_", "normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


# The network


@pytest.mark.parametrize("arch", FAMILIES)
def test_output_layer_has_a_unit_per_class(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_random_numbers(monkeypatch)
    made = build_network(arch, 7, 224, None)
    assert find_output_layer(made) == FAMILIES[arch]
    assert made.get_submodule(FAMILIES[arch]).state_dict()["weight"].shape[0] == 7


def test_networks_are_for_classification() -> None:
    assert set(FAMILIES) < set(list_networks())
    assert not any(word in name for name in list_networks() for word in ("rcnn", "raft", "r3d", "fcn", "quantized"))


def test_outputs_are_those_of_torchvision() -> None:
    theirs = torchvision.models.get_model(SMALLEST).eval()
    model = network(num_classes=1000, stem="imagenet").eval()
    model.net.network.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(model(x), theirs(x))


def test_grey_images_become_colour_images() -> None:
    model, grey = network(in_shape=(1, 28, 28)).eval(), torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(InputError, match="images of 1 or 3 channels, these have 4"):
        network(in_shape=(4, 32, 32))


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({}, 4),
        ({"stem": "imagenet"}, 2),
        ({"resize": 64}, 4),
        ({"resize": 64, "stem": "small"}, 8),
        ({"weights": "DEFAULT"}, 2),
        ({"weights": "some.ckpt"}, 4),
    ],
)
def test_small_images_get_a_small_stem(settings: dict[str, Any], side: int) -> None:
    """The side in pixels before the last stage, of images of 32 pixels."""
    model, shapes = network(**settings).eval(), []
    model.net.network.stage4.register_forward_hook(lambda layer, inputs, output: shapes.append(inputs[0].shape))
    model(torch.randn(1, 3, 32, 32))
    assert [shape[-1] for shape in shapes] == [side]


@pytest.mark.parametrize("arch", ["convnext_tiny", "vgg11"])
def test_small_stem_without_effect_is_refused(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer of a ConvNeXt cuts the image into patches, a VGG's looks at each pixel."""
    skip_random_numbers(monkeypatch)
    network(arch, stem="auto")
    with pytest.raises(InputError, match=rf"model\.stem=small: {arch} has no first convolution that skips pixels"):
        network(arch, stem="small")


def test_vision_transformer_is_built_for_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_random_numbers(monkeypatch)
    assert network("vit_b_32", in_shape=(3, 64, 64)).net.network.image_size == 64
    with pytest.raises(InputError, match=r"vit_b_32 does not take images of 28×28 pixels: .* model\.resize=32"):
        network("vit_b_32", in_shape=(1, 28, 28))
    with pytest.raises(InputError, match=r"does not take images of 32×32 pixels: .* model\.resize=224"):
        network("vit_b_32", weights="IMAGENET1K_V1")


def test_single_squeezenet_output_may_be_negative() -> None:
    torch.manual_seed(0)
    outputs = network("squeezenet1_1", task="binary", num_classes=2)(torch.randn(32, 3, 32, 32))
    assert outputs.shape == (32, 1)
    assert outputs.min() < 0


# Runs


def test_sweep_over_networks_runs_each(data_dir: Path, tmp_path: Path) -> None:
    few = get_small_image_settings("cifar10", data_dir)
    names = f"model.arch={SMALLEST},squeezenet1_1"
    outcome = train_bare("-m", "model=torchvision", names, *few, *FEW, "name=nets", cwd=tmp_path)
    found = {
        load_checkpoint(folder / "checkpoints/best.ckpt")["hyper_parameters"]["arch"] for folder in outcome.folders
    }
    assert found == {SMALLEST, "squeezenet1_1"}


def test_colours_are_learned_and_evaluated_again(data_dir: Path, tmp_path: Path) -> None:
    outcome = run_small(
        data_dir, tmp_path, "data.train_size=160", "trainer.max_epochs=5", "optimizer.lr=0.005", FIRST_LAYER
    )
    assert outcome.metrics["parameters"] == 352042  # torchvision's, less 990 of 1000 classes
    assert outcome.metrics["test/acc"] > 0.5
    assert (outcome.folder / "figures/first_layer.png").is_file()
    evaluated = evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    assert f"test/acc {outcome.metrics['test/acc']:.2%}" in evaluated.text


def test_resumed_run_has_equal_weights(data_dir: Path, tmp_path: Path) -> None:
    """A run of one epoch that is resumed for a second ends with the weights of a run of two."""
    settings = ("model.freeze=1", "optimizer=adam")
    straight = run_small(data_dir, tmp_path, *settings, "trainer.max_epochs=2", "name=straight").folder
    first = run_small(data_dir, tmp_path, *settings, "name=stopped").folder
    train(f"resume={first}", "trainer.max_epochs=2", cwd=tmp_path)
    assert is_identical(read_weights(straight), read_weights(first))


def test_frozen_weights_stay_and_head_learns(data_dir: Path, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs.pt")
    settings = ("model.freeze=backbone", f"model.weights={tmp_path / 'theirs.pt'}")
    short = run_small(data_dir, tmp_path, *settings, "name=short").folder
    longer = run_small(data_dir, tmp_path, *settings, "name=longer", "trainer.max_epochs=2", data="mnist").folder
    (short_backbone, short_head), (backbone, head) = (split_weights(read_weights(each)) for each in (short, longer))
    assert is_identical(backbone, split_weights(theirs)[0])
    assert is_identical(backbone, short_backbone)
    assert head["fc.weight"].shape == (10, 1024)
    assert not torch.equal(head["fc.weight"], short_head["fc.weight"])


def test_weights_of_a_run_start_another(data_dir: Path, tmp_path: Path) -> None:
    first = run_small(data_dir, tmp_path, "name=first").folder
    weights = f"model.weights={first / 'checkpoints/last.ckpt'}"
    second = run_small(data_dir, tmp_path, weights, "model.freeze=backbone", "name=second", data="mnist").folder
    assert is_identical(split_weights(read_weights(first))[0], split_weights(read_weights(second))[0])


def test_head_learns_faster_than_backbone(data_dir: Path, tmp_path: Path) -> None:
    save_theirs(tmp_path / "theirs.pt")
    weights = f"model.weights={tmp_path / 'theirs.pt'}"
    settings = ("optimizer=sgd", "optimizer.lr=0.1", "model.backbone_lr_factor=0.25")
    found = []
    for number, started in enumerate([[weights], []]):
        folder = run_small(data_dir, tmp_path, *settings, *started, f"name=rates{number}").folder
        groups = load_checkpoint(folder / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"]
        found.append([(group["lr"], len(group["params"])) for group in groups])
    assert found == [[(0.025, 168), (0.1, 2)], [(0.1, 168), (0.1, 2)]]


def test_safetensors_start_a_run(data_dir: Path, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs.pt")
    save_file(theirs, tmp_path / "theirs.safetensors")
    weights = f"model.weights={tmp_path / 'theirs.safetensors'}"
    folder = run_small(data_dir, tmp_path, weights, "model.freeze=backbone").folder
    assert is_identical(split_weights(read_weights(folder))[0], split_weights(theirs)[0])
    content = (tmp_path / "theirs.safetensors").read_bytes()
    for damaged in (content[:-1], b"", b"\xff" * 20, (tmp_path / "theirs.pt").read_bytes()):
        (tmp_path / "theirs.safetensors").write_bytes(damaged)
        assert "is truncated or not a file of safetensors" in refuse(data_dir, tmp_path, weights)


# Published weights


@pytest.mark.parametrize("arch", ["densenet121", "mnasnet0_5", SMALLEST])
def test_published_weights_load_from_cache(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of layers as in the files that were published years ago are understood."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    theirs = save_theirs(cache / "new.pth", arch)
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for name, value in theirs.items()}
    torch.save(old if arch == "densenet121" else theirs, cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()[:8]
    path = (cache / "new.pth").rename(cache / f"net-{digest}.pth")
    monkeypatch.setattr(torchvision.models.get_model_weights(arch).DEFAULT.value, "url", f"https://none/{path.name}")
    model = network(arch, in_shape=(3, 64, 64))
    head = model.get_head().state_dict()["weight"].clone()
    model.load_backbone("DEFAULT")
    layer = f"{find_output_layer(model.net.network)}."
    assert is_identical(*(split_weights(each, layer)[0] for each in (model.net.network.state_dict(), theirs)))
    assert torch.equal(model.get_head().state_dict()["weight"], head)


def test_vision_transformer_reads_old_names(tmp_path: Path) -> None:
    source, target = [VisionTransformer(32, 16, 2, 2, 8, 16) for _ in range(2)]
    theirs = source.state_dict()
    old = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): theirs[name] for name in theirs}
    assert len(old.keys() - theirs.keys()) == 8
    torch.save(old, tmp_path / "old.pt")
    load_all_but_output(target, "heads.head", networks, "vit_b_32", str(tmp_path / "old.pt"))
    backbones = [split_weights(each.state_dict(), "heads.head.")[0] for each in (source, target)]
    assert is_identical(*backbones)


# Refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("model.arch=resnet5",), ["model.arch=resnet5: torchvision has no such", "did you mean resnet50, "]),
        (("model.arch=zzz",), ["there are 80, such as convnext_tiny"]),
        (("model.arch=fcn_resnet50",), ["no such classification network, did you mean", "resnet50"]),
        (("model.arch=inception_v3",), ["images of 32×32 pixels: scale them to 75×75 with model.resize=75"]),
        (
            ("model.arch=resnet50", "model.weights=IMAGENET"),
            ["model.weights=IMAGENET: there is no such file, and published weights are", "IMAGENET1K_V2, DEFAULT"],
        ),
    ],
)
def test_wrong_settings_are_refused(
    settings: tuple[str, ...], words: list[str], data_dir: Path, tmp_path: Path
) -> None:
    error = refuse(data_dir, tmp_path, *settings)
    assert [word for word in words if word not in error] == []


def test_weights_of_another_network_are_refused(data_dir: Path, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs.pt")
    weights = f"model.weights={tmp_path / 'theirs.pt'}"
    assert "does not fit model.arch=squeezenet1_1: it lacks features" in refuse(
        data_dir, tmp_path, weights, "model.arch=squeezenet1_1"
    )
    wider = refuse(data_dir, tmp_path, weights, "model.arch=shufflenet_v2_x1_0")
    assert "does not fit model.arch=shufflenet_v2_x1_0 at stage2.0" in wider
    torch.save(theirs | {"stage9.weight": torch.zeros(1)}, tmp_path / "theirs.pt")
    deeper = refuse(data_dir, tmp_path, weights, f"model.arch={SMALLEST}")
    assert f"does not fit model.arch={SMALLEST}: this network has no stage9.weight" in deeper
