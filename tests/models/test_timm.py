"""timm's networks by name: what a run makes of them, and what it refuses."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._registry import _model_pretrained_cfgs

from src.core.errors import InputError
from src.models.pretrained import Timm
from src.models.published import timm_networks
from tests.command_line import (
    BARE,
    evaluate,
    get_small_image_settings,
    is_identical,
    read_weights,
    run,
)

SMALLEST = "test_resnet"  # 470,000 weights
FEW = ("data.train_size=48", "trainer.max_epochs=1")


def network(arch: str, side: int = 32, **settings: Any) -> Timm:
    given = {"weights": None, "freeze": "none", "backbone_lr_factor": 0.1, "stem": "auto", "resize": None}
    base = {"in_shape": [3, side, side], "num_classes": 10, "task": "multiclass"}
    return Timm(**{**given, **base, "arch": arch, **settings})


def run_small(data_dir: Path, cwd: Path, *settings: str) -> Any:
    few = get_small_image_settings("cifar10", data_dir)
    arch = [] if any(each.startswith("model.arch=") for each in settings) else [f"model.arch={SMALLEST}"]
    return run("src.train", "model=timm", *arch, *BARE, *few, *FEW, *settings, cwd=cwd)


def split_weights(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the weights of backbone and head by timm's names."""
    own = {name.removeprefix("net.network."): value for name, value in state.items()}
    parts = [{name: own[name] for name in own if name.startswith("fc.") == is_head} for is_head in (False, True)]
    return parts[0], parts[1]


@pytest.mark.parametrize(
    ("arch", "head"),
    [(SMALLEST, "fc"), ("test_vit", "head"), ("test_convnext", "head.fc"), ("test_efficientnet", "classifier")],
)
def test_head_has_a_unit_per_class(arch: str, head: str) -> None:
    model = network(arch)
    assert model.net.output_layer == head
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    backbone, top = (sum(weight.numel() for weight in group["params"]) for group in model.get_parameter_groups(0.1))
    assert backbone + top == sum(weight.numel() for weight in model.net.parameters())
    theirs: Any = timm.create_model(arch, num_classes=10)
    assert top == sum(weight.numel() for weight in theirs.get_classifier().parameters())


def test_stem_with_branches_stays_as_published() -> None:
    """A first block whose branches all skip pixels cannot change one of them."""
    model = network("repvgg_a0")
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(InputError, match="repvgg_a0 has no first convolution that skips pixels by itself"):
        network("repvgg_a0", stem="small")


def test_weights_in_file_are_fine_tuned(data_dir: Path, tmp_path: Path) -> None:
    """From a file of safetensors: the frozen backbone stays as it was, the head learns, the run is evaluated again."""
    torch.manual_seed(7)
    theirs = timm.create_model(SMALLEST).state_dict()
    save_file(theirs, tmp_path / "theirs.safetensors")
    settings = (f"model.weights={tmp_path / 'theirs.safetensors'}", "model.freeze=backbone")
    outcome = run_small(data_dir, tmp_path, *settings)
    backbone, head = split_weights(read_weights(outcome.folder))
    assert is_identical(backbone, split_weights(theirs)[0]) and len(head["fc.weight"]) == 10
    evaluated = evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    assert f"test/acc {outcome.metrics['test/acc']:.2%}" in evaluated.text


def test_published_weights_are_loaded_by_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(7)
    theirs = timm.create_model(SMALLEST).state_dict()
    save_file(theirs, tmp_path / "published.safetensors")
    monkeypatch.setattr(
        _model_pretrained_cfgs[f"{SMALLEST}.r160_in1k"], "file", str(tmp_path / "published.safetensors")
    )
    caplog.set_level("INFO")
    for name in ("DEFAULT", "r160_in1k"):
        model = network(SMALLEST, weights=name)
        before = torch.random.get_rng_state()
        model.load_backbone(name)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert is_identical(split_weights(model.net.network.state_dict())[0], split_weights(theirs)[0])
    assert (
        "test_resnet was trained with model.resize=160 data.mean=[0.5, 0.5, 0.5] data.std=[0.5, 0.5, 0.5]"
        in caplog.text
    )


def test_unreachable_weights_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", mock.Mock(side_effect=OSError("no route\nto the host")))
    with pytest.raises(InputError, match=r"model\.weights=DEFAULT cannot be downloaded \(no route\): use"):
        timm_networks.read_published(SMALLEST, "DEFAULT")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("model.arch=resnet5",), ["model.arch=resnet5: timm has no such", "did you mean resnet50"]),
        (("model.arch=resnet18.a1_in1k",), ["so give model.arch=resnet18 model.weights=a1_in1k"]),
        (("model.arch=resnet18", "model.weights=a9"), ["there is no such file, and published", "a1_in1k", "DEFAULT"]),
        (("model.arch=vit_tiny_patch16_224", "model.weights=DEFAULT"), ["32×32 pixels: scale them to 224×224"]),
        (("model.arch=deit_tiny_distilled_patch16_224",), ["several output layers: choose a network with one"]),
    ],
)
def test_wrong_settings_are_refused(
    settings: tuple[str, ...], words: list[str], data_dir: Path, tmp_path: Path
) -> None:
    error = run_small(data_dir, tmp_path, *settings).error
    assert [word for word in words if word not in error] == []


def test_missing_timm_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    with mock.patch("src.core.extras.find_spec", return_value=None):
        error = run_small(data_dir, tmp_path).error
    assert error.startswith("error: model=timm needs the package timm, which is not installed: ")
