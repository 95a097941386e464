"""A checkpoint that is another run's, that lacks something or holds something else: one line that names it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.models.mlp import MLP
from tests.command_line import evaluate, is_identical, load_checkpoint, read_json, read_weights, run, train_bare

MORE_EPOCHS = "trainer.max_epochs=4"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_bare("trainer.max_epochs=2", cwd=tmp_path_factory.mktemp("trained")).folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "outputs" / "runs" / "copy"))


def resume_and_get_error(folder: Path, cwd: Path) -> str:
    """Resume a run that is to train longer; return the line that refuses it. Nothing in its folder has changed."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    error = run("src.train", f"resume={folder}", MORE_EPOCHS, cwd=cwd).error
    assert {path: path.read_bytes() for path in before} == before
    return error


# The right part under another name, of another type, or none


def make_removal(*names: str) -> Callable[[dict[str, Any]], None]:
    def remove(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return remove


def make_replacement(value: Any, *names: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        content[names[-1]] = value

    return change


def test_missing_or_invalid_parts_are_named(folder: Path, tmp_path: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    changes = {
        "loops is missing": make_removal("loops"),
        "callbacks is missing or wrong": make_replacement(5, "callbacks"),
        "optimizer_states is missing or wrong": make_removal("optimizer_states"),
        "epoch is missing or wrong": make_replacement("x", "epoch"),
        "callbacks.History is missing or wrong": make_replacement([{"epoch": "one"}], "callbacks", "History", "rows"),
        "callbacks.RunCheckpoint is missing or wrong": make_replacement("best", "callbacks", "RunCheckpoint", "stops"),
        "callbacks.EpochSeed is missing or wrong": make_removal("callbacks", "EpochSeed"),
        "does not fit this run (ValueError: 2 epochs, not 0": make_replacement({}, "loops", "fit_loop"),
        "does not fit this run (ValueError: 0 optimizers, not 1": make_replacement([], "optimizer_states"),
        "does not fit this run (KeyError: 'param_groups')": make_replacement([{}], "optimizer_states"),
        "loops is missing or wrong; start": make_replacement(
            "x", "loops", "fit_loop", "epoch_loop.batch_progress", "total", "ready"
        ),
        "does not fit this run (AttributeError": make_replacement(5, "loops", "fit_loop"),
        "state_dict is missing or wrong": make_replacement(5, "state_dict"),
        "net.layers.0.0.weight has shape none there": make_replacement("x", "state_dict", "net.layers.0.0.weight"),
    }
    for words, change in changes.items():
        content = load_checkpoint(last)
        change(content)
        torch.save(content, last)
        error = run("src.train", f"resume={folder}", MORE_EPOCHS, cwd=tmp_path).error
        assert f"checkpoint {last} " in error and words in error, error
        last.write_bytes(whole)
    assert run("src.train", f"resume={folder}", MORE_EPOCHS, cwd=tmp_path).code == 0


def test_checkpoint_of_other_run_is_refused(folder: Path, tmp_path: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    for setting, words in {
        "model.hidden_size=7": "net.layers.0.0.weight has shape (7, 2) there, (100, 2) here",
        "model.dropout=0.5": "another run's: dropout is 0.5 there, 0.0 here",
        "optimizer=sgd": "another run's: optimizer is {_target_: torch.optim.SGD",
        "seed=5": "another run's: seed is 5 there, 0 here",
    }.items():
        other = train_bare("trainer.max_epochs=1", setting, cwd=tmp_path).folder
        shutil.copy(other / "checkpoints" / "last.ckpt", last)
        error = resume_and_get_error(folder, tmp_path)
        assert f"checkpoint {last} " in error and words in error, error


def test_missing_best_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    """A missing best checkpoint is reported before training starts."""
    (folder / "checkpoints" / "best.ckpt").unlink()
    assert "best.ckpt is missing: start a new run from last.ckpt" in resume_and_get_error(folder, tmp_path)


def test_invalid_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """Weights to start from and weights to evaluate are checked."""
    best = folder / "checkpoints" / "best.ckpt"
    whole = load_checkpoint(best)
    for value in (5, {3: torch.zeros(2)}):
        torch.save(whole | {"state_dict": value}, best)
        for command in (["src.train", f"ckpt_path={best}"], ["src.eval", f"run={folder}"]):
            assert f"checkpoint {best} holds no weights" in run(*command, cwd=tmp_path).error
    torch.save(whole | {"epoch": "x"}, best)
    evaluate(f"run={folder}", cwd=tmp_path)
    assert read_json(folder / "eval_val.json")["epoch"] == 0


# Bit rot


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_flipped_bit_is_refused_by_commands(folder: Path, tmp_path: Path) -> None:
    """Of the weights: in the middle of the file."""
    for name, commands in {
        "last": [["src.train", f"resume={folder}", MORE_EPOCHS]],
        "best": [
            ["src.train", f"resume={folder}", MORE_EPOCHS],
            ["src.train", f"ckpt_path={folder}/checkpoints/best.ckpt"],
            ["src.eval", f"run={folder}"],
        ],
    }.items():
        path = folder / "checkpoints" / f"{name}.ckpt"
        place = path.read_bytes().index(read_weights(folder, name)["net.layers.0.0.weight"].numpy().tobytes())
        flip_bit(path, bit := 8 * place + random.Random(0).randrange(800))
        for command in commands:
            assert f"checkpoint {path} is damaged" in run(*command, cwd=tmp_path).error
        with pytest.raises(InputError, match=rf"{name}\.ckpt is damaged"):
            MLP.load_from_checkpoint(path)
        flip_bit(path, bit)


def test_model_is_loaded_from_checkpoint(folder: Path) -> None:
    model = MLP.load_from_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert is_identical(dict(model.state_dict()), dict(read_weights(folder, "best")))
