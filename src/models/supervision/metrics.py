"""Metrics of an evaluation that the setting ``metrics`` names, computed by torchmetrics from all outputs at once.

Those of classes or labels are macro averages: the mean over the classes, each counted alike. For two classes F1,
precision and recall are those of the second class, as are the areas under its curves.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import functional as F
from torchmetrics.utilities.distributed import gather_all_tensors

from src.core.checks import format_value
from src.core.errors import InputError
from src.core.names import suggest_name
from src.data.tasks import get_task

Metric = Callable[[Tensor, Tensor], Tensor]  # outputs (N, out_features), targets (N,) → ()
TOP_K = re.compile(r"top([1-9]\d{0,5})", re.ASCII)  # the right class is among the k most probable
CALIBRATION_BINS = 15
PER_CLASS = {"average": "none"}  # the mean is then taken over the classes that occur, see `_compute_class_metric`

# Functions of predicted classes, and of probabilities, with their settings.
CLASS_METRICS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "f1": (F.f1_score, {"average": "macro"}),
    "precision": (F.precision, {"average": "macro"}),
    "recall": (F.recall, {"average": "macro"}),
    "specificity": (F.specificity, {"average": "macro"}),
    "cohen_kappa": (F.cohen_kappa, {}),
    "mcc": (F.matthews_corrcoef, {}),
}
PROBABILITY_METRICS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "auroc": (F.auroc, PER_CLASS),
    "average_precision": (F.average_precision, PER_CLASS),
    "ece": (F.calibration_error, {"n_bins": CALIBRATION_BINS, "norm": "l1"}),
}
NOT_OF_LABELS = ("cohen_kappa", "ece")  # that torchmetrics does not define for several labels of a sample
PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {  # from outputs (N, K), or (N, 1) for two classes
    "multiclass": lambda outputs: outputs.softmax(dim=1),  # (N, K)
    "binary": lambda outputs: outputs.squeeze(1).sigmoid(),  # (N,), of the second class
    "multilabel": Tensor.sigmoid,  # (N, K)
}
VALUE_METRICS: dict[str, Metric] = {
    "mae": F.mean_absolute_error,
    "rmse": partial(F.mean_squared_error, squared=False),
    "r2": F.r2_score,
    "mape": F.mean_absolute_percentage_error,
    "pearson": F.pearson_corrcoef,
    "spearman": F.spearman_corrcoef,
}


def choose_metrics(names: Sequence[str], task: str, num_classes: int) -> dict[str, Metric]:
    """Return the metrics with these names for a task.

    Raises:
        InputError: naming the first that does not exist, or does not suit the task.
    """
    known = _build_metrics(task, num_classes)
    return {name: known.get(name) or _find_top_k(name, task, num_classes, known) for name in names}


def compute_metrics(
    metrics: Mapping[str, Metric], outputs: Tensor, targets: Tensor, processes: int = 1
) -> dict[str, float]:
    """Return the metrics of an evaluation; NaN for one that these samples leave undefined.

    Args:
        metrics: the metrics by name.
        outputs: this process's, (n, out_features); n may be 0, if others have samples.
        targets: this process's, (n,).
        processes: the number of processes that evaluate together, each its own samples.
    """
    if processes > 1:
        outputs, targets = (torch.cat(gather_all_tensors(each)) for each in (outputs, targets))
    if outputs.device.type == "mps":  # lacks some of the operations
        outputs, targets = outputs.cpu(), targets.cpu()
    with warnings.catch_warnings():  # torchmetrics warns of classes that do not occur, and of undefined values
        warnings.simplefilter("ignore")
        return {name: float(metric(outputs, targets)) for name, metric in metrics.items()}


def _build_metrics(task: str, num_classes: int) -> dict[str, Metric]:
    """Return the metrics of a task by name, without those of `TOP_K`."""
    if task == "dense":
        return {}
    if task == "regression":
        return {name: partial(_compute_value_metric, function) for name, function in VALUE_METRICS.items()}
    found: dict[str, Metric] = {}
    left_out = NOT_OF_LABELS if task == "multilabel" else ()
    size = {"num_labels" if task == "multilabel" else "num_classes": num_classes}
    for table, convert in ((CLASS_METRICS, get_task(task).predict), (PROBABILITY_METRICS, PROBABILITIES[task])):
        for name, (function, settings) in table.items():
            how = partial(function, task=task, validate_args=False, **size)
            if name not in left_out:
                found[name] = partial(_compute_class_metric, partial(how, **settings), convert)
    if task != "multilabel":
        found["balanced_accuracy"] = partial(_compute_balanced_accuracy, get_task(task).predict, num_classes)
    return found


def _compute_class_metric(
    function: Callable[..., Tensor], convert: Callable[[Tensor], Tensor], outputs: Tensor, targets: Tensor
) -> Tensor:
    """Return a metric of classes or probabilities; of a value for each class (K,), the mean over those that occur."""
    value = function(convert(outputs), targets)
    if not value.ndim:
        return value
    counts = targets.sum(dim=0) if targets.ndim > 1 else targets.bincount(minlength=len(value))
    return value[counts > 0].mean()


def _compute_balanced_accuracy(
    predict: Callable[[Tensor], Tensor], num_classes: int, outputs: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean over the classes of the fraction of their samples that is predicted, also for two classes."""
    return F.recall(predict(outputs), targets, "multiclass", num_classes=num_classes, average="macro")


def _compute_value_metric(function: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a metric of values, of several the mean over them; NaN for R² of a single sample."""
    if function is F.r2_score and len(targets) == 1:
        return outputs.new_tensor(torch.nan)
    return function(outputs.view_as(targets), targets.to(outputs.dtype)).mean()


def _find_top_k(name: str, task: str, num_classes: int, known: Mapping[str, Metric]) -> Metric:
    """Return the metric "top5", or one of another number of classes.

    Raises:
        InputError: if the name is not of this kind, or includes all classes.
    """
    match = TOP_K.fullmatch(name)
    if match is None or task != "multiclass":
        raise InputError(_describe_unknown(name, task, known))
    count = int(match[1])
    if count >= num_classes:
        raise InputError(f"metrics=[{name}]: of {num_classes} classes it would always be 1")
    count_right = partial(F.accuracy, task="multiclass", num_classes=num_classes, average="micro", top_k=count)
    return lambda outputs, targets: count_right(outputs, targets, validate_args=False)


def _describe_unknown(name: str, task: str, known: Mapping[str, Metric]) -> str:
    """Return the error message for a metric that does not exist, or does not suit the task."""
    measured = ("loss", "acc") if get_task(task).has_classes else ("loss",)
    if name in (*measured, "accuracy"):
        return f"metrics=[{name}]: {' and '.join(measured)} are measured anyway: leave it out"
    if not known:
        return f"metrics=[{format_value(name)}]: for {task} targets there are none but those that are always measured"
    hint = f", did you mean {near}?" if (near := suggest_name(name, known)) else ""
    names = [*known, *(["topK, such as top5"] if task == "multiclass" else [])]
    problem = f"metrics=[{format_value(name)}]: there is no such metric for {task} targets{hint or ';'}"
    return f"{problem} there are {', '.join(names)}"
