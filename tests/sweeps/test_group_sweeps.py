"""A sweep over a group takes the settings that the group's choices have, and names the choice that lacks one."""

from pathlib import Path

import pytest

from tests.command_line import BARE, get_image_settings, get_small_image_settings, read_json, run


def test_shared_setting_is_accepted(data_dir: Path, tmp_path: Path) -> None:
    """A setting that all swept choices have is accepted."""
    shared = [*get_small_image_settings("mnist,fashion_mnist", data_dir), "data.flip=true", "trainer.max_epochs=1"]
    assert run("src.train", "-m", *BARE, *shared, "name=flipped", cwd=tmp_path).code == 0
    found = [read_json(path)["settings"] for path in sorted(tmp_path.glob("outputs/sweeps/flipped/*/job.json"))]
    assert [each["data._target_"].split(".")[-1] for each in found] == ["MNIST", "FashionMNIST"]
    assert [each["data.flip"] for each in found] == [True, True]


def test_shared_setting_is_accepted_with_preset(data_dir: Path, tmp_path: Path) -> None:
    """A setting that all choices of a preset's axis have is accepted."""
    shared = [
        *get_image_settings(data_dir),
        "data.flip=true",
        "data=mnist,fashion_mnist",
        "model=mlp",
        "data.val_size=40",
    ]
    outcome = run("src.train", *BARE, "sweep=models_data", *shared, "trainer.max_epochs=1", "name=preset", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    notes = sorted(tmp_path.glob("outputs/sweeps/preset/*/job.json"))
    assert [read_json(path)["settings"]["data.flip"] for path in notes] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("data=gate,xor", "data.gate=xor"), "with data=xor there is no setting data.gate"),
        (("data=gate,xor", "data.gatee=xor"), "with data=gate there is no setting data.gatee, did you mean data.gate?"),
        (
            ("model=mlp,nearest_neighbor", "model.dropout=0.1"),
            "with model=nearest_neighbor there is no setting",
        ),
        (("callbacks=default,none", "~callbacks.samples"), "with callbacks=none there is no setting callbacks.samples"),
        (("experiment=xor,wheat", "model.foo=1"), "with experiment=xor there is no setting model.foo"),
        (("data=gate,xor", "optimizer.lrr=1"), "there is no setting optimizer.lrr, did you mean optimizer.lr?"),
    ],
)
def test_choice_lacking_setting_is_named(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """The error names the choice that lacks the setting."""
    assert told in run("src.train", "-m", *arguments, cwd=tmp_path).error
    assert list(tmp_path.iterdir()) == []
