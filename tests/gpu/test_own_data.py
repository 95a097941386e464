"""Texts, masks and labels of one's own agree on the GPU with the CPU; halving cuts stacks there."""

from pathlib import Path

import pytest
import torch

from tests.command_line import read_json, read_weights, run, train_bare
from tests.data.test_labels_and_masks import LABELS, MASKS, UNET, write_shapes
from tests.data.test_text import SETTINGS as REVIEWS
from tests.data.test_text import write_reviews
from tests.gpu.test_agreement import assert_close, tensors
from tests.sweeps.outcomes import read_csv, read_statuses, read_sweep_jobs
from tests.sweeps.test_halving import HALVING, STATUSES

pytestmark = pytest.mark.gpu
NO_CHANCE = ("data.flip=false", "data.crop=0")  # on a GPU other random numbers are drawn
CASES = {
    "words": (*REVIEWS, "model=text", "model.width=16"),
    "attention": (*REVIEWS, "model=text", "model.width=16", "model.blocks=1", "model.heads=2"),
    "masks": (*MASKS, *UNET, *NO_CHANCE),
    "labels": (*LABELS, "model=cnn", "model.dropout=0", *NO_CHANCE),
    "averaged": ("data=wheat", "model.class_weights=balanced", "ema=0.9", "optimizer=adamw"),
}
SWEEP = (
    *("-m", "logger=none", "callbacks=none", "model.hidden_size=4", "trainer.max_epochs=4", "name=swept"),
    *("optimizer.lr=0.003,0.03,0.1", "seed=0", "hydra/launcher=vectorized"),
)


def write_own_data(folder: Path) -> None:
    write_reviews(folder / "reviews.csv")
    write_shapes(folder / "shapes")


@pytest.mark.parametrize("kind", CASES)
def test_float64_run_agrees_with_cpu(kind: str, wheat_dir: Path, trainer: str, tmp_path: Path) -> None:
    """In float64 the weights agree with those of a run on the CPU to nine digits; predictions can be made of both."""
    write_own_data(tmp_path)
    settings = (*CASES[kind], f"paths.data={wheat_dir}", "trainer.precision=64-true", "trainer.max_epochs=3")
    here, there = (train_bare(*settings, each, cwd=tmp_path) for each in (trainer, "trainer=cpu"))
    assert_close(here, there, 1e-6)
    torch.testing.assert_close(tensors(here), tensors(there), rtol=0, atol=1e-9)


def test_texts_are_predicted_after_training_on_the_gpu(trainer: str, tmp_path: Path) -> None:
    write_own_data(tmp_path)
    folder = train_bare(*CASES["attention"], trainer, "trainer.max_epochs=8", cwd=tmp_path).folder
    (tmp_path / "new.csv").write_text("review\na lovely plot\nawful town\n")
    outcome = run("src.predict", f"run={folder}", "new.csv", "out=new.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert [row["prediction"] for row in read_json(tmp_path / "new.json")] == ["yes", "no"]  # type: ignore[index]


def test_halved_stack_keeps_the_plain_one(trainer: str, tmp_path: Path) -> None:
    """A stack on the GPU that is cut to its survivors decides as one on the CPU, and gives what the whole one gives."""
    folders = {name: tmp_path / name for name in ("whole", "halved", "cpu")}
    for name, folder in folders.items():
        folder.mkdir()
        settings = (*SWEEP, "trainer=cpu" if name == "cpu" else trainer, *(() if name == "whole" else HALVING))
        outcome = run("src.train", *settings, cwd=folder)
        assert outcome.code == 0, outcome.text
    assert read_statuses(folders["halved"], "swept") == read_statuses(folders["cpu"], "swept") == STATUSES
    whole, halved, _ = (read_sweep_jobs(folder, "swept") for folder in folders.values())
    rows, others = (read_csv(jobs[1].folder / "history.csv") for jobs in (halved, whole))
    assert len(rows) == len(others) == 4
    mine, plain = (read_weights(jobs[1].folder) for jobs in (halved, whole))
    assert all((mine[name] - plain[name]).abs().max() < 1e-5 for name in plain)
