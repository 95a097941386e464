"""Presets of several runs, shortened: what their runs tell side by side."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from src.data.toy import Linear
from tests.command_line import load_checkpoint, read_json, read_weights
from tests.course.presets import composed, scores, sweep


def read_metric(jobs: dict[str, Path], name: str) -> dict[str, Any]:
    return {job: read_json(folder / "metrics.json")[name] for job, folder in jobs.items()}


def sum_squared_weights(folder: Path) -> float:
    """Σw² over a job's weights, as they were when training ended."""
    return sum(float(weight.square().sum()) for weight in read_weights(folder).values() if weight.ndim > 1)


# What is swept

AXES = {
    "sweep=gates": {"experiment": "gates,gates_sigmoid,gates_products,gates_hidden", "data.gate": "and,or,nand,xor"},
    "sweep=pulse": {"model.hidden_size": "1,2"},
    "sweep=xor": {"model.hidden_size": "1,2,3", "seed": "range(20)"},
    "sweep=xor_many": {
        "model.hidden_size": "1,2,3,4,5,6,7,8",
        "optimizer.lr": "0.1,0.3,1.0",
        "seed": "range(100)",
    },
    "sweep=cubic": {"model.hidden_size": "1,2,4,100"},
    "sweep=overfit": {
        "experiment": "overfit,overfit_batch_norm,overfit_dropout,overfit_l2,overfit_l1,overfit_early_stopping"
    },
    "sweep=descent": {"optimizer.lr": "0.01,0.3,2.5"},
    "sweep=wheat": {"data.fold": "0,1,2,3,4", "data.split_seed": "range(5)"},
    "sweep=mnist_quadratic": {
        "model.activation": "sigmoid,relu",
        "model.loss": "quadratic,cross_entropy",
        "data.batch_size": "55000,10",
    },
    "sweep=vanishing_gradient": {"model.activation": "sigmoid,relu"},
    "sweep=transfer": {"experiment": "resnet18_scratch,resnet18_frozen,resnet18_finetune", "seed": "range(3)"},
}


@pytest.mark.parametrize("preset", AXES)
def test_sweep_covers_course_comparison(preset: str) -> None:
    """A sweep preset has the axes that the course compares."""
    hydra = composed(preset).hydra
    assert hydra.mode.name == "MULTIRUN"
    assert dict(hydra.sweeper.params) == AXES[preset]


# Toy sets


def test_single_units_fail_on_xor(tmp_path: Path) -> None:
    """Of four models on XOR the two with a single unit fail; the other two solve it."""
    jobs = sweep("sweep=gates", "data=gate", "data.gate=xor", "trainer.max_epochs=60", cwd=tmp_path)
    accuracies = list(read_metric(jobs, "test/acc").values())
    assert len(jobs) == 4
    assert max(accuracies[:2]) <= 0.75
    assert accuracies[2:] == [1.0, 1.0]


def test_pulse_needs_two_units(tmp_path: Path) -> None:
    """One hidden unit cannot fit a pulse; two can, with one edge each."""
    jobs = sweep("sweep=pulse", "trainer.max_epochs=15", cwd=tmp_path)
    one, two = read_metric(jobs, "test/acc").values()
    assert one <= 0.7 and two >= 0.98
    hidden, bias, output, _ = read_weights(jobs["hidden_size-2"]).values()
    edges = (-bias / hidden[:, 0]).tolist()  # where a unit's output is one half
    assert sorted(edges) == pytest.approx([-1, 1], abs=0.15)
    slopes = {round(edge): slope for edge, slope in zip(edges, (hidden[:, 0] * output[0]).tolist(), strict=True)}
    assert slopes[-1] > 0 > slopes[1]  # up at −1, down at 1


def test_xor_needs_several_hidden_units(tmp_path: Path) -> None:
    """In a thirtieth of the steps at 20 times the rate: of seeds 0 to 7 none, seven (not seed 2) and all eight."""
    shorter = ["trainer.max_epochs=15", "optimizer.lr=2.0", "trainer.check_val_every_n_epoch=3"]
    jobs = sweep("sweep=xor", "seed=2", *shorter, cwd=tmp_path)
    accuracies = list(read_metric(jobs, "test/acc").values())
    assert max(scores(next(iter(jobs.values())), "val/acc")) <= 0.75  # with one unit at no time
    assert accuracies[0] <= 0.75 and accuracies[-1] == 1.0
    assert accuracies == sorted(accuracies)


def test_cubic_error_falls_with_hidden_units(tmp_path: Path) -> None:
    jobs = sweep("sweep=cubic", "model.hidden_size=1,2,100", "trainer.max_epochs=20", cwd=tmp_path)
    errors = list(read_metric(jobs, "test/loss").values())
    assert errors[0] > 2 * errors[1] > 100 * errors[2]
    assert errors[2] < 0.001


@pytest.fixture(scope="module")
def ten_points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The jobs of the sweep over remedies, without what they all begin with."""
    shorter = ["trainer.max_epochs=240", "optimizer.lr=0.008"]
    jobs = sweep("sweep=overfit", *shorter, cwd=tmp_path_factory.mktemp("overfit"))
    return {name.removeprefix("experiment-"): folder for name, folder in jobs.items()}


def test_remedies_increase_training_error(ten_points: dict[str, Path]) -> None:
    """Each remedy for overfitting ends with a larger error on the ten training points."""
    errors = read_metric(ten_points, "test/loss")
    assert len(errors) == 6
    plain = errors.pop("overfit")
    assert plain < 0.3
    assert min(errors.values()) > 1.5 * plain


def test_penalties_and_dropout_shrink_weights(ten_points: dict[str, Path]) -> None:
    plain = sum_squared_weights(ten_points["overfit"])
    assert sum_squared_weights(ten_points["overfit_dropout"]) < 0.95 * plain
    assert sum_squared_weights(ten_points["overfit_l1"]) < 0.2 * plain
    assert sum_squared_weights(ten_points["overfit_l2"]) < 0.2 * plain


def test_only_l1_penalty_zeroes_most_weights(ten_points: dict[str, Path]) -> None:
    """The L1 penalty brings most weights to nearly zero; the L2 penalty does not."""

    def empty(name: str) -> float:
        flat = torch.cat([weight.flatten() for weight in read_weights(ten_points[name]).values() if weight.ndim > 1])
        return float((flat.abs() < 0.01).float().mean())

    assert empty("overfit_l1") > 0.75
    assert empty("overfit") < empty("overfit_l2") < 0.5


def test_batch_norm_precedes_each_sigmoid(ten_points: dict[str, Path]) -> None:
    folder = ten_points["overfit_batch_norm"]
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["hyper_parameters"]["batch_norm"] == "before"
    assert [len(weight) for name, weight in read_weights(folder).items() if name.endswith("running_mean")] == [
        30,
        100,
        100,
        30,
    ]


def test_early_stopping_ends_first(ten_points: dict[str, Path]) -> None:
    epochs = read_metric(ten_points, "epochs")
    assert epochs.pop("overfit_early_stopping") < 240
    assert set(epochs.values()) == {240}


def compute_least_loss() -> float:
    """The least mean logistic loss that two weights reach on the descent's points, by Newton's method."""
    data = Linear(train_size=1000, val_size=1, test_size=1, batch_size=1)
    data.setup()
    inputs, targets = data.train_set.inputs.double(), data.train_set.targets.double()
    weight = torch.zeros(2, dtype=torch.float64)
    for _ in range(20):
        p = (inputs @ weight).sigmoid()
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs
        weight = weight - torch.linalg.solve(hessian, inputs.T @ (p - targets))
    return float(F.binary_cross_entropy_with_logits(inputs @ weight, targets))


def test_step_size_decides_convergence(tmp_path: Path) -> None:
    """Small steps converge slowly, suitable steps converge, and steps that are too large oscillate."""
    others = [f"~callbacks.{name}" for name in ("curves", "decision_regions", "confusion_matrix")]
    shorter = ["trainer.max_epochs=30", *others]
    jobs = sweep("sweep=descent", *shorter, cwd=tmp_path, bare=False)
    least = compute_least_loss()
    small, fitting, large = [[loss - least for loss in scores(folder, "train/loss")] for folder in jobs.values()]
    start = small[0]  # at weights of zero: log 2 above zero
    assert start == fitting[0] == large[0] == pytest.approx(0.6931 - least, abs=1e-4)
    assert small == sorted(small, reverse=True) and small[-1] > 0.5 * start
    assert fitting == sorted(fitting, reverse=True) and fitting[-1] < 0.001
    assert max(large) > 5 * start and large[-1] > start
    turns = [later - before for before, later in pairwise(large[-11:])]
    assert all(one * next_one < 0 for one, next_one in pairwise(turns))  # to and fro


# Wheat, images


def test_five_wheat_folds_are_tested(wheat: list[str], tmp_path: Path) -> None:
    """The wheat sweep trains and tests one job for each of the five folds."""
    jobs = sweep(
        "sweep=wheat",
        *wheat,
        "data.split_seed=0",
        "trainer.max_epochs=25",
        "trainer.check_val_every_n_epoch=5",
        cwd=tmp_path,
    )
    assert list(jobs) == [f"fold-{fold}_split_seed-0" for fold in range(5)]
    assert list(read_metric(jobs, "test/acc").values()) == [1.0] * 5
    assert len(set(read_metric(jobs, "test/loss").values())) == 5


REPLACEMENTS = {"relu": "sigmoid", "cross_entropy": "quadratic", "batch_size-10": "batch_size-55000"}


def test_modern_replacements_learn_faster(small: list[str], tmp_path: Path) -> None:
    """ReLU, cross-entropy and small batches each learn more in the same number of epochs."""
    jobs = sweep("sweep=mnist_quadratic", *small, "trainer.max_epochs=4", "optimizer.lr=0.5", cwd=tmp_path)
    assert len(jobs) == 8
    loss = {job: scores(folder, "val/loss")[-1] for job, folder in jobs.items()}
    accuracy = {job: scores(folder, "val/acc")[-1] for job, folder in jobs.items()}
    for job in jobs:
        for new, old in REPLACEMENTS.items():
            if new in job and new == "cross_entropy":  # losses of two kinds cannot be compared
                assert accuracy[job] >= accuracy[job.replace(new, old)]
            elif new in job:
                assert loss[job] < 0.9 * loss[job.replace(new, old)]
    first, *_, last = accuracy.values()
    assert first < 0.5 and last == 1.0  # the notes' network with the full gradient, all three replaced


def test_gradient_vanishes_through_sigmoids_only(small: list[str], tmp_path: Path) -> None:
    """The gradient vanishes through eight sigmoid layers but not through eight ReLU layers."""
    others = [f"~callbacks.{name}" for name in ("curves", "samples", "confusion_matrix", "misclassified")]
    shorter = ["trainer.max_epochs=1", "callbacks.gradient_norms.every_n_steps=1", *others]
    jobs = sweep("sweep=vanishing_gradient", *small, *shorter, cwd=tmp_path, bare=False)
    assert list(jobs) == ["activation-sigmoid", "activation-relu"]
    ratios = []
    for folder in jobs.values():
        norms = load_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]["GradientNorms"]["norms"]
        assert len(norms[0]) == 9
        ratios.append(norms[0][0] / norms[0][-1])
        assert (folder / "figures" / "gradient_norms.png").is_file()
    assert ratios[0] < 0.001
    assert 0.1 < ratios[1] < 10


def test_transfer_runs_differ_in_backbone(small: list[str], pretrained: Path) -> None:
    """The backbone stays when frozen, moves little when fine-tuned and is new from scratch."""
    few = ["seed=0", "data.train_size=32", "data.batch_size=16", "trainer.max_epochs=1", "name=transfer"]
    jobs = sweep("sweep=transfer", *small, *few, cwd=pretrained)
    path = pretrained / "outputs" / "runs" / "resnet18_pretrain" / "checkpoints" / "best.ckpt"
    learned, name = load_checkpoint(path)["state_dict"], "net.backbone.conv1.weight"
    moved = [float((read_weights(folder)[name] - learned[name]).norm()) for folder in jobs.values()]
    scratch, frozen, finetuned = moved
    assert frozen == 0 < finetuned < 0.1 < scratch
    assert list(read_metric(jobs, "epochs").values()) == [1] * 3
