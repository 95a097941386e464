"""The monitored metric, by which a run's best epoch is chosen: its name, its mode and whether it is ever measured."""

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from hydra.utils import get_class, get_object
from lightning import LightningDataModule, LightningModule
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.core.checks import format_value
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.tasks import get_task
from src.models.base import SupervisedModule

LOWER_IS_BETTER = (
    "loss",
    "losses",
    "error",
    "errors",
    "err",
    "mse",
    "rmse",
    "mae",
    "mape",
    "nll",
    "ece",
    "perplexity",
    "ppl",
    "wer",
    "cer",
)
RATES = ("acc", "accuracy", "precision", "recall", "sensitivity", "specificity", "f1", "auc", "auroc", "ap", "map")
HIGHER_IS_BETTER = (
    *RATES,
    "iou",
    "miou",
    "dice",
    "jaccard",
    "bleu",
    "rouge",
    "psnr",
    "ssim",
    "kappa",
    "mcc",
    "r2",
    "pearson",
    "spearman",
)
TOP_K = re.compile(r"top\d+")  # also a rate
STAGE_PREFIX = re.compile(r"(train|val|test)(?:ing|id|idation)?[/_.-]+(?=.)")
LOGGING_METHODS = ("log", "finish_evaluation", "on_", "_step")  # prefixes and suffixes of methods that may log metrics
MODULES_WITHOUT_METRICS = tuple(
    f"src.models.{name}" for name in ("airbench", "mlp", "cnn", "images", "pretrained", "resnet18")
)  # modules that add no metrics
MonitoredMetric = tuple[str | None, str]


def format_metric_name(name: str, stage: str = "") -> str:
    """Return a metric's name as in files, with the stage first: "val/loss" for val_loss or valid.loss.

    Args:
        name: the name that the model logs.
        stage: "train", "val" or "test", for a name without a stage.
    """
    if match := STAGE_PREFIX.match(name):
        return f"{match[1]}/{name[match.end() :]}"
    return f"{stage}/{name}" if stage else name


def infer_mode(metric: str) -> str | None:
    """Return the mode of a metric by its name: "min" for losses and errors, "max" for accuracies, ``None`` if unknown.

    The last known word in the name decides: val/acc_error is an error.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", metric)]
    known = [word for word in words if word in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) or TOP_K.fullmatch(word)]
    return None if not known else "min" if known[-1] in LOWER_IS_BETTER else "max"


def resolve_monitor(cfg: Mapping[str, Any], data: LightningDataModule) -> MonitoredMetric:
    """Return the metric that chooses a run's best epoch, and its mode.

    The settings ``monitor`` and ``mode`` come first, then the data module's ``monitor``, then val/loss.

    Returns:
        The metric, ``None`` if there is no validation set to measure it on, and "min" or "max".

    Raises:
        InputError: if the metric is known never to be measured, or its mode is unknown.
    """
    asked, mode = cfg.get("monitor"), cfg.get("mode")
    if asked is not None:
        check_measured("monitor", asked, cfg, data)
        return asked, mode or require_mode("monitor", "mode", asked)
    default = getattr(data, "monitor", None)
    name, usual = default if isinstance(default, tuple) else ("val/loss", "min")
    name = name if has_validation(cfg, data) else None
    if name is None and mode:
        raise InputError(f"mode={mode}: no metric is monitored; give monitor=NAME, too")
    return name, mode or usual


def require_mode(setting: str, mode_setting: str, metric: str) -> str:
    """Return the mode that a metric's name implies.

    Raises:
        InputError: if it implies none, naming the settings of the metric and the mode.
    """
    if found := infer_mode(metric):
        return found
    raise InputError(
        f"{setting}={format_value(metric)}: is a lower or a higher value better? Give {mode_setting}=min or "
        f"{mode_setting}=max, too"
    )


def has_validation(cfg: Mapping[str, Any], data: LightningDataModule) -> bool:
    """Return True if there are validation batches and the model has a ``validation_step``."""
    model = get_class(cfg["model"]["_target_"])
    ours = isinstance(data, TensorDataModule)
    has_data = cfg["data"].get("val_size", 1) != 0 if ours else has_loader("val", data)
    return bool(has_data and cfg["trainer"].get("limit_val_batches", 1)) and has_step("validation", model)


def explain_no_validation(cfg: Mapping[str, Any], data: LightningDataModule) -> str:
    """Return the reason why a run has no validation, in a few words."""
    if not cfg["trainer"].get("limit_val_batches", 1):
        return "trainer.limit_val_batches is 0"
    if not has_step("validation", get_class(cfg["model"]["_target_"])):
        return "the model has no validation_step"
    return "data.val_size is 0" if isinstance(data, TensorDataModule) else "the data have no val_dataloader"


def has_loader(stage: str, data: LightningDataModule) -> bool:
    """Return True if a data module has batches for a stage ("train", "val", "test")."""
    name = f"{stage}_dataloader"
    return name in vars(data) or getattr(type(data), name) is not getattr(LightningDataModule, name)


def has_step(stage: str, model: type) -> bool:
    """Return True if a model's class defines the step of a stage ("training", "validation", "test")."""
    return getattr(model, f"{stage}_step") is not getattr(LightningModule, f"{stage}_step")


def check_measured(setting: str, metric: str, cfg: Mapping[str, Any], data: LightningDataModule) -> None:
    """Refuse a metric that is known before training never to be measured.

    Raises:
        InputError: naming the setting, and the metrics that are measured.
    """
    known = _find_measured_metrics(cfg, data)
    if known is not None and metric not in known:
        without = (
            "" if has_validation(cfg, data) else f" (there is no validation set: {explain_no_validation(cfg, data)})"
        )
        raise InputError(f"{describe_unmeasured(setting, metric, known)}{without}")
    every, epochs = (cfg["trainer"].get(name) for name in ("check_val_every_n_epoch", "max_epochs"))
    if format_metric_name(metric).startswith("val/") and every and epochs and every > epochs:
        reason = f"trainer.check_val_every_n_epoch={every} is more than trainer.max_epochs={epochs}"
        raise InputError(f"{setting}={format_value(metric)} is never measured: {reason}")


def describe_unmeasured(setting: str, metric: str, known: Iterable[str]) -> str:
    """Return the error message for a metric that is not among the measured ones, with a suggestion if one fits."""
    known = sorted(known)
    meant = [name for name in known if name.endswith(f"/{metric}") or name == format_metric_name(metric)]
    hint = f", did you mean {meant[0]}?" if len(meant) == 1 and meant[0] != metric else ""
    return (
        f"{setting}={format_value(metric)} is never measured{hint or ';'} this run measures "
        f"{', '.join(known) or 'nothing'}"
    )


def _find_measured_metrics(cfg: Mapping[str, Any], data: LightningDataModule) -> list[str] | None:
    """Return the metrics that a run measures; ``None`` if a user-defined class may log others."""
    model = get_class(cfg["model"]["_target_"])
    targets = [each["_target_"] for each in cfg["callbacks"].values() if each]
    if not isinstance(data, TensorDataModule) or not issubclass(model, SupervisedModule) or _can_log(model):
        return None
    if not all(target.startswith(("src.", "lightning.")) for target in targets):
        return None
    task = get_task(data.task)
    measures = ["loss", *(["acc"] if task.has_classes else [])]
    stages = ["train", *(["val"] if has_validation(cfg, data) else [])]
    found = [f"{stage}/{measure}" for stage in stages for measure in measures]
    further = [*task.confusion_metrics, *(cfg.get("metrics") or [])]
    return found + [f"val/{name}" for name in further if "val" in stages]


def _can_log(model: type) -> bool:
    """Return True if a subclass of `SupervisedModule` defines methods in which it may log metrics."""
    below = takewhile(lambda kind: kind is not SupervisedModule, model.__mro__)
    own = [kind for kind in below if kind.__module__ not in MODULES_WITHOUT_METRICS]
    return any(
        name.startswith(LOGGING_METHODS) or name.endswith(LOGGING_METHODS) for kind in own for name in vars(kind)
    )


def resolve_scheduler_monitor(settings: Any, cfg: Mapping[str, Any], data: LightningDataModule) -> Any:
    """Return a scheduler's settings with the metric that it monitors, and its mode, filled in if it needs them.

    The default is the run's monitored metric.

    Raises:
        InputError: if there is no metric to monitor, or it is never measured.
    """
    kind = get_object(settings["_target_"]) if settings else None
    plateau = isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)
    if not plateau and "monitor" not in (settings or {}):
        return settings
    judge, mode = resolve_monitor(cfg, data)
    name = settings.get("monitor") or judge
    if name is None:
        why = f"there is no validation set to monitor ({explain_no_validation(cfg, data)})"
        raise InputError(f"scheduler.monitor: {why}; give it, such as train/loss")
    if name != judge:
        check_measured("scheduler.monitor", name, cfg, data)
    filled = {"monitor": name}
    if plateau and settings.get("mode") is None:
        filled["mode"] = mode if name == judge else require_mode("scheduler.monitor", "scheduler.mode", name)
    return settings | filled
