"""Metrics chosen in the config: their numbers, where they appear, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import Tensor

from src.models.supervision.metrics import choose_metrics, compute_metrics
from tests.command_line import evaluate, read_history, read_json, run, train_bare

CLASSES, SAMPLES = 7, 200
MULTICLASS = {
    "f1": torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="macro"),
    "precision": torchmetrics.Precision("multiclass", num_classes=CLASSES, average="macro"),
    "recall": torchmetrics.Recall("multiclass", num_classes=CLASSES, average="macro"),
    "specificity": torchmetrics.Specificity("multiclass", num_classes=CLASSES, average="macro"),
    "balanced_accuracy": torchmetrics.Accuracy("multiclass", num_classes=CLASSES, average="macro"),
    "cohen_kappa": torchmetrics.CohenKappa("multiclass", num_classes=CLASSES),
    "mcc": torchmetrics.MatthewsCorrCoef("multiclass", num_classes=CLASSES),
    "auroc": torchmetrics.AUROC("multiclass", num_classes=CLASSES),
    "average_precision": torchmetrics.AveragePrecision("multiclass", num_classes=CLASSES),
    "ece": torchmetrics.CalibrationError("multiclass", num_classes=CLASSES),
    "top3": torchmetrics.Accuracy("multiclass", num_classes=CLASSES, average="micro", top_k=3),
}
BINARY = {
    "f1": torchmetrics.F1Score("binary"),
    "precision": torchmetrics.Precision("binary"),
    "recall": torchmetrics.Recall("binary"),
    "specificity": torchmetrics.Specificity("binary"),
    "cohen_kappa": torchmetrics.CohenKappa("binary"),
    "mcc": torchmetrics.MatthewsCorrCoef("binary"),
    "auroc": torchmetrics.AUROC("binary"),
    "average_precision": torchmetrics.AveragePrecision("binary"),
    "ece": torchmetrics.CalibrationError("binary"),
}
REGRESSION = {
    "mae": torchmetrics.MeanAbsoluteError(),
    "rmse": torchmetrics.MeanSquaredError(squared=False),
    "r2": torchmetrics.R2Score(),
    "mape": torchmetrics.MeanAbsolutePercentageError(),
    "pearson": torchmetrics.PearsonCorrCoef(),
    "spearman": torchmetrics.SpearmanCorrCoef(),
}
SETTINGS = ("model.hidden_size=8", "data.noise=0.4", "trainer.max_epochs=2")


def measure(task: str, outputs: Tensor, targets: Tensor, *names: str) -> dict[str, float]:
    return compute_metrics(choose_metrics(names, task, CLASSES if task == "multiclass" else 2), outputs, targets)


def test_multiclass_metrics_equal_torchmetrics() -> None:
    outputs, targets = 2 * torch.randn(SAMPLES, CLASSES), torch.randint(CLASSES, (SAMPLES,))
    wanted = {name: float(metric(outputs.softmax(dim=1), targets)) for name, metric in MULTICLASS.items()}
    assert measure("multiclass", outputs, targets, *MULTICLASS) == pytest.approx(wanted, rel=1e-6)


def test_binary_metrics_equal_torchmetrics() -> None:
    """Those of one class are the second's; balanced accuracy is the mean of both classes' recalls."""
    outputs, targets = 2 * torch.randn(SAMPLES, 1), torch.randint(2, (SAMPLES,))
    wanted = {name: float(metric(outputs.squeeze(1).sigmoid(), targets)) for name, metric in BINARY.items()}
    measured = measure("binary", outputs, targets, *BINARY, "balanced_accuracy")
    assert measured.pop("balanced_accuracy") == pytest.approx((wanted["recall"] + wanted["specificity"]) / 2)
    assert measured == pytest.approx(wanted, rel=1e-6)


def test_label_metrics_equal_torchmetrics() -> None:
    outputs, targets = torch.randn(SAMPLES, 2), torch.randint(2, (SAMPLES, 2))
    wanted = {
        "f1": torchmetrics.F1Score("multilabel", num_labels=2, average="macro")(outputs.sigmoid(), targets),
        "auroc": torchmetrics.AUROC("multilabel", num_labels=2)(outputs.sigmoid(), targets),
    }
    found = measure("multilabel", outputs, targets, *wanted)
    assert found == pytest.approx({name: float(value) for name, value in wanted.items()}, rel=1e-6)


def test_metrics_of_several_values_are_means() -> None:
    outputs, targets = torch.randn(SAMPLES, 3), torch.randn(SAMPLES, 3)
    each = [measure("regression", outputs[:, [k]], targets[:, k], "mae", "r2", "pearson") for k in range(3)]
    wanted = {name: sum(part[name] for part in each) / 3 for name in each[0]}
    assert measure("regression", outputs, targets, *wanted) == pytest.approx(wanted, rel=1e-4)


def test_regression_metrics_equal_torchmetrics() -> None:
    outputs, targets = torch.randn(SAMPLES, 1), torch.randn(SAMPLES)
    wanted = {name: float(metric(outputs.squeeze(1), targets)) for name, metric in REGRESSION.items()}
    assert measure("regression", outputs, targets, *REGRESSION) == pytest.approx(wanted, rel=1e-5)


def test_areas_leave_out_missing_classes() -> None:
    """A class without samples has no area under its curves, and the mean is that of the others."""
    targets = torch.arange(SAMPLES) % (CLASSES - 1)
    outputs = torch.nn.functional.one_hot(targets, CLASSES).float()
    assert measure("multiclass", outputs, targets, "auroc", "average_precision") == {
        "auroc": 1,
        "average_precision": 1,
    }


def test_undefined_metric_is_not_a_number() -> None:
    one = measure("regression", torch.ones(1, 1), torch.zeros(1), "mae", "r2", "pearson")
    assert one.pop("mae") == 1
    assert all(map(math.isnan, one.values()))


def test_chosen_metrics_appear_beside_accuracy(tmp_path: Path) -> None:
    """They are in the history and metrics.json, choose the epoch, and do not change the training."""
    outcome = train_bare(*SETTINGS, "metrics=[f1,auroc]", "monitor=val/f1", cwd=tmp_path)
    metrics, rows = outcome.metrics, read_history(outcome.folder)
    assert {"val/f1", "val/auroc", "test/f1", "test/auroc"} <= metrics.keys()
    assert "train/f1" not in rows[0]
    assert (metrics["mode"], metrics["best"]) == ("max", max(row["val/f1"] for row in rows))
    plain = read_history(train_bare(*SETTINGS, cwd=tmp_path).folder)
    assert plain == [{name: value for name, value in row.items() if name in plain[0]} for row in rows]


def test_evaluation_measures_other_metrics(tmp_path: Path) -> None:
    """An evaluation measures the run's metrics, or others that it is given; they are those of torchmetrics."""
    folder = train_bare(*SETTINGS, "metrics=[mcc]", cwd=tmp_path).folder
    evaluate(f"run={folder}", cwd=tmp_path)
    assert "val/mcc" in read_json(folder / "eval_val.json")
    evaluate(f"run={folder}", "split=test", "metrics=[f1,ece]", cwd=tmp_path)
    told = read_json(folder / "eval_test.json")
    assert {"test/f1", "test/ece"} < told.keys() and "test/mcc" not in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("metrics=[au_roc]", "there is no such metric for binary targets, did you mean auroc? there are"),
        ("metrics=[rmse]", "metrics=[rmse]: there is no such metric for binary targets; there are"),
        ("metrics=[top5]", "metrics=[top5]: there is no such metric for binary targets"),
        ("metrics=[acc]", "metrics=[acc]: loss and acc are measured anyway"),
        ("metrics=f1", "metrics=f1 must be a list of names of metrics"),
        ("monitor=val/f1", "monitor=val/f1 is never measured; this run measures"),
    ],
)
def test_unsuitable_metric_is_refused(given: str, message: str, tmp_path: Path) -> None:
    outcome = run("src.train", *SETTINGS, given, cwd=tmp_path)
    assert message in outcome.error
    assert not outcome.folders


def test_top_five_of_three_is_refused(tmp_path: Path) -> None:
    outcome = run("src.train", "data=wheat", "metrics=[top5]", cwd=tmp_path)
    assert "metrics=[top5]: of 3 classes it would always be 1" in outcome.error
