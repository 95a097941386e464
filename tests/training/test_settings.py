"""The table of settings: what each refuses and lets pass, that it has all, and what a config as a whole must have."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class
from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf

from src.core.checks import format_value
from src.core.errors import InputError
from src.core.hints import get_hints
from src.core.places import LOCATION_CHECKS
from src.storage.configs import BASE_CLASSES
from src.sweeps.launchers import local, slurm, vectorized
from src.sweeps.launchers import ray as ray_cluster
from src.sweeps.search import plan as search_plan
from src.sweeps.search import rungs
from src.training.validation.config import check_config
from src.training.validation.settings import CHECKS, EVALUATION, EXPORT, OPTIMIZER, OPTIMIZER_CHOICES, PREDICTION
from tests.chaos.settings import leaves
from tests.command_line import CONF

VALID_OPTIMIZER_VALUES = {
    "lr": 0.1,
    "betas": [0.9, 0.99],
    "eps": 1e-6,
    "weight_decay": 0,
    "momentum": 0,
    "dampening": 0,
    "nesterov": False,
    "fused": True,
    "alpha": 0.9,
    "centered": True,
    "momentum_decay": 0,
    "decoupled_weight_decay": True,
    "max_iter": 1,
    "history_size": 5,
    "line_search_fn": None,
}

INVALID = [
    ("scheduler.frequency", 0),
    ("scheduler.monitor", 5),
    ("scheduler.strict", None),
    ("scheduler.name", ""),
    ("scheduler.reduce_on_plateau", 1),
    ("scheduler.warmup", 1),
    ("scheduler.start_factor", 0),
    ("scheduler.mode", "least"),
    ("scheduler.factor", 0),
    ("scheduler.patience", -1),
    ("scheduler.threshold", -1),
    ("scheduler.cooldown", 0.5),
    ("scheduler.min_lr", [-1]),
    ("trainer.gradient_clip_algorithm", "length"),
    ("scheduler.T_max", 0),
    ("scheduler.total_steps", "all"),
    ("scheduler.pct_start", 3),
    ("scheduler.div_factor", 0),
    ("scheduler.final_div_factor", -1),
    ("scheduler.anneal_strategy", "steps"),
    ("scheduler.cycle_momentum", "no"),
    ("callbacks.early_stopping.patience", -1),
    ("callbacks.samples.count", 0),
    ("callbacks.misclassified.count", 0),
    ("trainer.max_steps", 0),
    ("seed", -1),
    ("deterministic", "maybe"),
    ("deterministic", {"a": 1}),
    ("deterministic", {}),
    ("threads", 0),
    ("compile", True),
    ("cuda_graph", "sometimes"),
    ("ema", 1.0),
    ("metrics", "f1"),
    ("data_on_device", 1),
    ("data.stream", "auto"),
    ("scheduler.factor", 2),
    ("split", "train"),
    ("model.hidden_size", "abc"),
    ("model.hidden_size", [64, 0]),
    ("model.hidden_size", True),
    ("model.channels", []),
    ("model.activation", "swish2"),
    ("model.activation", ["relu"]),
    ("model.dropout", 1.5),
    ("model.dropout", 1),
    ("model.batch_norm", "yes please"),
    ("model.batch_norm", 1),
    ("model.output_bias", "no"),
    ("model.products", 2),
    ("model.init", "random"),
    ("model.init_std", 0),
    ("model.widths", [64, 0]),
    ("model.width", 0),
    ("model.blocks", -1),
    ("model.heads", 0),
    ("model.scaling_factor", 0),
    ("model.batch_norm_momentum", 0),
    ("model.bias_lr_factor", -64),
    ("data.crop_padding", "mirror"),
    ("data.verify", "maybe"),
    ("model.flip_test", "left"),
    ("model.loss", "hinge"),
    ("model.reduction", "max"),
    ("model.l1", -1),
    ("model.l2", "much"),
    ("model.label_smoothing", -0.1),
    ("model.class_weights", [1, 0]),
    ("model.class_weights", "equal"),
    ("model.arch", "resnet 50"),
    ("model.freeze", "head"),
    ("model.backbone_lr_factor", 0),
    ("model.stem", "big"),
    ("model.resize", 0),
    ("optimizer.lr", -1),
    ("optimizer.lr", 0),
    ("optimizer.lr", float("nan")),
    ("optimizer.weight_decay", -1e-4),
    ("optimizer.momentum", 1.0),
    ("scheduler.gamma", 0),
    ("scheduler.interval", "batch"),
    ("data.batch_size", 0),
    ("data.batch_size", 2.5),
    ("data.cache", ""),
    ("data.labels", 3),
    ("data.masks", "masks/train"),
    ("data.classes", ["cat"]),
    ("data.size", 0),
    ("data.channels", 2),
    ("data.mean", [1.5]),
    ("data.std", [0]),
    ("data.val_size", -1),
    ("data.val_size", 1.5),
    ("data.train_size", 0),
    ("data.test_size", 0),
    ("data.noise", -0.1),
    ("data.split_seed", -1),
    ("data.shuffle", 1),
    ("data.drop_last", None),
    ("data.gate", "nor"),
    ("data.held_out", -1),
    ("data.folds", 1),
    ("data.fold", -1),
    ("data.file", ""),
    ("data.test_file", 5),
    ("data.text", 3),
    ("data.max_words", 0),
    ("data.max_length", 100_000),
    ("data.target", ""),
    ("data.target", []),
    ("data.task", "ranking"),
    ("data.target_unit", 0),
    ("data.ignore", None),
    ("data.missing", "mean"),
    ("data.max_categories", 0),
    ("data.delimiter", ","),
    ("model.distance", "cosine"),
    ("model.k", 0),
    ("callbacks.class_probabilities.count", 0),
    ("callbacks.first_layer.count", 0),
    ("callbacks.first_layer.every_n_epochs", -1),
    ("callbacks.feature_maps.count", 0),
    ("callbacks.augmented_batch.count", 0),
    ("callbacks.saliency.count", 0),
    ("callbacks.embedding.count", 1),
    ("callbacks.decision_regions.every_n_epochs", -1),
    ("callbacks.hidden_space.every_n_epochs", 0.5),
    ("callbacks.fit.every_n_epochs", None),
    ("callbacks.gradient_norms.every_n_steps", 0),
    ("data.standardize", 1),
    ("data.flip", "left"),
    ("data.crop", -1),
    ("data.cutout", 0.5),
    ("data.mixup", -1),
    ("data.cutmix", 1e6),
    ("trainer.max_epochs", 0),
    ("trainer.check_val_every_n_epoch", 0),
    ("trainer.gradient_clip_val", 0),
    ("trainer.accumulate_grad_batches", 0),
    ("trainer.log_every_n_steps", 0),
    ("trainer.devices", 0),
    ("trainer.num_nodes", 0),
    ("trainer.accelerator", "tpu9"),
    ("seed", 2**32),
    ("seed", True),
    ("threads", 99999),
    ("name", ["a"]),
    ("resume", 5),
    ("resume", ""),
    ("rerun", "some"),
    ("preview", "yes"),
    ("trust", 5),
    ("monitor", "test/acc"),
    ("mode", "most"),
    ("test", "yes"),
    ("trust", ["a b"]),
    ("ckpt_path", 5),
    ("run", ""),
    ("checkpoint", 5),
    ("paths.data", ""),
    ("paths.outputs", ""),
    ("paths.outputs", " "),
    ("model.hidden_size", 10**9),
    ("model.hidden_size", [8] * 1001),
    ("model.weights", 1.5),
    ("model.dropout", float("nan")),
    ("optimizer.lr", float("inf")),
    ("optimizer.lr", 10**400),
    ("optimizer.betas", [0.9]),
    ("optimizer.betas", [0.9, 1.0]),
    ("optimizer.betas", {}),
    ("optimizer.eps", 0),
    ("optimizer.dampening", 2),
    ("optimizer.nesterov", 1),
    ("optimizer.fused", 100),
    ("optimizer.alpha", 1),
    ("optimizer.centered", 0),
    ("optimizer.momentum_decay", -1),
    ("optimizer.decoupled_weight_decay", 1),
    ("optimizer.max_iter", 0),
    ("optimizer.history_size", 0),
    ("optimizer.line_search_fn", "armijo"),
    ("scheduler.pct_start", 1.0),
    ("scheduler.eta_min", -1),
    ("scheduler.max_lr", "rate"),
    ("scheduler.max_lr", []),
    ("data.root", ""),
    ("data.verify", 1),
    ("data.order_seed", 0.5),
    ("data.order_seed", 2**62),
    ("data.split_seed", 2**63),
    ("data.train_size", 10**9),
    ("callbacks.progress.refresh_rate", "-m"),
    ("callbacks.progress.refresh_rate", 0),
    ("callbacks.early_stopping.monitor", 5),
    ("callbacks.early_stopping.mode", "most"),
    ("callbacks.early_stopping.min_delta", -1),
    ("callbacks.samples.count", {}),
    ("callbacks.samples.count", 10**9),
    ("logger.tensorboard.name", "a/b"),
    ("logger.tensorboard.version", 300 * "a"),
    ("logger.tensorboard.default_hp_metric", "yes"),
    ("logger.csv.name", "../x"),
    ("logger.csv.version", 5),
    ("logger.csv.flush_logs_every_n_steps", 0),
    ("logger.wandb.project", ""),
    ("logger.wandb.entity", []),
    ("logger.wandb.name", 5),
    ("logger.wandb.group", {}),
    ("logger.wandb.tags", "a"),
    ("logger.wandb.offline", 1),
    ("logger.wandb.log_model", "all"),
    ("logger.mlflow.tracking_uri", 5),
    ("logger.mlflow.experiment_name", ""),
    ("logger.mlflow.run_name", True),
    ("logger.mlflow.tags", ["a"]),
    ("logger.mlflow.log_model", True),
    ("trainer.max_epochs", 10**21),
    ("trainer.max_epochs", "2"),
    ("trainer.min_epochs", 0),
    ("trainer.min_steps", 0),
    ("trainer.devices", []),
    ("trainer.devices", [0, 0]),
    ("trainer.devices", "2"),
    ("trainer.devices", [-1]),
    ("trainer.strategy", ""),
    ("trainer.strategy", "ddp_spawn"),
    ("trainer.max_time", "1 hour"),
    ("trainer.max_time", {"second": 1}),
    ("trainer.max_time", {"seconds": 1e9}),
    ("trainer.gradient_clip_algorithm", "nrm"),
    ("trainer.benchmark", 1),
    ("trainer.inference_mode", None),
    ("trainer.detect_anomaly", "yes"),
    ("trainer.sync_batchnorm", 1),
    ("trainer.enable_autolog_hparams", 0),
    ("trainer.reload_dataloaders_every_n_epochs", -1),
    ("trainer.precision", "31-true"),
    ("trainer.limit_train_batches", 1e21),
    ("trainer.limit_val_batches", -1),
    ("trainer.limit_test_batches", 2.0),
    ("trainer.overfit_batches", "all"),
    ("trainer.val_check_interval", 0),
    ("trainer.profiler", 1),
    ("trainer.profiler", "fast"),
    ("trainer.profiler.filename", "a/b"),
    ("recipe.max_epochs", 0),
    ("recipe.check_val_every_n_epoch", None),
    ("recipe.picture_every_n_epochs", "often"),
    *[(f"recipe.{choice}.{name}", "abc") for choice in OPTIMIZER_CHOICES for name in OPTIMIZER],
]

VALID = [
    ("scheduler.frequency", None),
    ("scheduler.monitor", "val/loss"),
    ("scheduler.strict", False),
    ("scheduler.name", "rate"),
    ("scheduler.reduce_on_plateau", True),
    ("scheduler.warmup", 0),
    ("scheduler.start_factor", 1),
    ("scheduler.mode", "min"),
    ("scheduler.factor", 0.1),
    ("scheduler.patience", 0),
    ("scheduler.threshold", 1e-4),
    ("scheduler.cooldown", 0),
    ("scheduler.min_lr", [0.0, 1e-5]),
    ("trainer.gradient_clip_algorithm", "value"),
    ("scheduler.T_max", "total_steps"),
    ("scheduler.total_steps", 100),
    ("scheduler.pct_start", 0.3),
    ("scheduler.div_factor", 25.0),
    ("scheduler.final_div_factor", 1e4),
    ("scheduler.anneal_strategy", "linear"),
    ("scheduler.cycle_momentum", False),
    ("callbacks.early_stopping.patience", 0),
    ("callbacks.samples.count", 1),
    ("callbacks.misclassified.count", 1),
    ("trainer.max_steps", -1),
    ("seed", 0),
    ("seed", 2**32 - 1),
    ("seed", None),
    ("deterministic", True),
    ("threads", 1),
    ("threads", None),
    ("compile", None),
    ("cuda_graph", False),
    ("ema", 0.999),
    ("metrics", ["f1", "top5"]),
    ("data_on_device", False),
    ("data.stream", True),
    ("compile", "max-autotune"),
    ("split", "test"),
    ("model.hidden_size", 1),
    ("model.hidden_size", []),
    ("model.hidden_size", [512, 512]),
    ("model.channels", [8]),
    ("model.activation", "gelu"),
    ("model.dropout", 0),
    ("model.batch_norm", False),
    ("model.batch_norm", "after"),
    ("model.output_bias", False),
    ("model.products", True),
    ("model.init", "he"),
    ("model.init_std", 0.1),
    ("model.init", "dirac"),
    ("model.widths", [64]),
    ("model.width", 64),
    ("model.blocks", 0),
    ("model.heads", 4),
    ("model.scaling_factor", 0.1111),
    ("model.batch_norm_momentum", 1),
    ("model.bias_lr_factor", 64),
    ("data.crop_padding", "reflect"),
    ("data.verify", False),
    ("model.flip_test", True),
    ("model.loss", "quadratic"),
    ("model.loss", None),
    ("model.reduction", "sum"),
    ("model.l1", 0.01),
    ("model.l2", 0),
    ("model.label_smoothing", 0.1),
    ("model.class_weights", [1, 0.5]),
    ("model.class_weights", "balanced"),
    ("model.arch", "resnet50"),
    ("model.freeze", "backbone"),
    ("model.freeze", 3),
    ("model.backbone_lr_factor", 1),
    ("model.stem", "imagenet"),
    ("model.resize", 224),
    ("model.resize", None),
    ("optimizer.lr", 1e-3),
    ("optimizer.weight_decay", 0),
    ("optimizer.momentum", 0.9),
    ("scheduler.gamma", 0.5),
    ("scheduler.interval", "epoch"),
    ("data.batch_size", 1),
    ("data.cache", "data/image_folder"),
    ("data.labels", None),
    ("data.masks", "masks"),
    ("data.classes", ["background", "cat"]),
    ("data.size", 64),
    ("data.channels", 1),
    ("data.mean", [0.5, 0.5, 0.5]),
    ("data.std", None),
    ("data.val_size", 0),
    ("data.val_size", None),
    ("data.test_size", 0.2),
    ("data.val_size", 0.25),
    ("data.train_size", None),
    ("data.train_size", 1.0),
    ("data.test_size", 1),
    ("data.noise", 0),
    ("data.split_seed", 0),
    ("data.shuffle", False),
    ("data.drop_last", True),
    ("data.gate", "nand"),
    ("data.held_out", 3),
    ("data.folds", 5),
    ("data.fold", 0),
    ("data.file", "wine.csv"),
    ("data.test_file", None),
    ("data.text", "review"),
    ("data.max_words", 10_000),
    ("data.max_length", 256),
    ("data.target", "quality"),
    ("data.target", ["width", "height"]),
    ("data.task", None),
    ("data.target_unit", 1000),
    ("data.ignore", "id"),
    ("data.ignore", ["id", 2]),
    ("data.missing", "drop"),
    ("data.max_categories", 50),
    ("data.delimiter", "tab"),
    ("data.test_size", 0.2),
    ("model.distance", "l2"),
    ("model.k", 5),
    ("callbacks.class_probabilities.count", 10),
    ("callbacks.first_layer.count", 1),
    ("callbacks.first_layer.every_n_epochs", 0),
    ("callbacks.feature_maps.count", 4),
    ("callbacks.augmented_batch.count", 16),
    ("callbacks.saliency.count", 12),
    ("callbacks.embedding.count", 1000),
    ("callbacks.decision_regions.every_n_epochs", 0),
    ("callbacks.hidden_space.every_n_epochs", 10),
    ("callbacks.fit.every_n_epochs", 1),
    ("callbacks.gradient_norms.every_n_steps", 10),
    ("data.standardize", False),
    ("data.flip", True),
    ("data.crop", 0),
    ("data.cutout", 8),
    ("data.mixup", 0.2),
    ("data.cutmix", 0),
    ("trainer.max_epochs", 1),
    ("trainer.check_val_every_n_epoch", 10),
    ("trainer.gradient_clip_val", None),
    ("trainer.gradient_clip_val", 0.5),
    ("trainer.accumulate_grad_batches", 4),
    ("trainer.log_every_n_steps", 1),
    ("trainer.devices", "auto"),
    ("trainer.devices", [0, 1]),
    ("trainer.num_nodes", 2),
    ("trainer.accelerator", "cuda"),
    ("name", "a run"),
    ("name", 0),
    ("resume", None),
    ("rerun", "failed"),
    ("preview", True),
    ("trust", "mylab"),
    ("monitor", "val/loss"),
    ("mode", "max"),
    ("test", False),
    ("ckpt_path", None),
    ("run", "outputs/runs/a"),
    ("checkpoint", "best"),
    ("paths.data", "data"),
    ("paths.outputs", "/somewhere"),
    ("model.weights", None),
    ("optimizer.betas", [0, 0.999]),
    ("optimizer.eps", 1e-8),
    ("optimizer.dampening", 0.5),
    ("optimizer.nesterov", True),
    *[(f"optimizer.{name}", value) for name, value in VALID_OPTIMIZER_VALUES.items()],
    ("optimizer.fused", None),
    ("scheduler.eta_min", 0),
    ("scheduler.max_lr", "lr"),
    ("scheduler.max_lr", [0.1]),
    ("data.root", "data"),
    ("data.verify", False),
    ("data.order_seed", 2**32 - 1),
    ("data.order_seed", None),
    ("callbacks.progress.refresh_rate", 1),
    ("callbacks.early_stopping.monitor", None),
    ("callbacks.early_stopping.mode", "min"),
    ("callbacks.early_stopping.min_delta", 0),
    ("logger.tensorboard.name", ""),
    ("logger.tensorboard.version", "v1"),
    ("logger.tensorboard.default_hp_metric", False),
    ("logger.csv.name", ""),
    ("logger.csv.version", None),
    ("logger.csv.flush_logs_every_n_steps", 1),
    ("logger.wandb.project", "a"),
    ("logger.wandb.entity", None),
    ("logger.wandb.name", None),
    ("logger.wandb.group", "a"),
    ("logger.wandb.offline", True),
    ("logger.wandb.log_model", False),
    ("logger.mlflow.experiment_name", None),
    ("logger.mlflow.run_name", "a"),
    ("logger.mlflow.log_model", False),
    ("logger.wandb.tags", ["a", "b"]),
    ("logger.mlflow.tags", {"a": "b"}),
    ("logger.mlflow.tracking_uri", None),
    ("trainer.min_epochs", None),
    ("trainer.min_steps", 10),
    ("trainer.devices", 1),
    ("trainer.strategy", "ddp"),
    ("trainer.max_time", "00:12:00:00"),
    ("trainer.max_time", {"hours": 1, "seconds": 0.5}),
    ("trainer.gradient_clip_algorithm", "value"),
    ("trainer.benchmark", True),
    ("trainer.inference_mode", False),
    ("trainer.detect_anomaly", True),
    ("trainer.sync_batchnorm", True),
    ("trainer.enable_autolog_hparams", False),
    ("trainer.reload_dataloaders_every_n_epochs", 1),
    ("trainer.precision", "bf16-mixed"),
    ("trainer.precision", 64),
    ("trainer.limit_train_batches", 1),
    ("trainer.limit_val_batches", 0),
    ("trainer.limit_test_batches", 0.5),
    ("trainer.overfit_batches", 0.0),
    ("trainer.val_check_interval", 0.5),
    ("trainer.profiler", "simple"),
    ("trainer.profiler", None),
    ("trainer.profiler.filename", "profile"),
    ("recipe.max_epochs", 10),
    ("recipe.check_val_every_n_epoch", 5),
    ("recipe.picture_every_n_epochs", 0),
    *[(f"recipe.{choice}.{name}", VALID_OPTIMIZER_VALUES[name]) for choice in OPTIMIZER_CHOICES for name in OPTIMIZER],
]


ALL = CHECKS | EVALUATION
CLASSES = {
    "model": "src.models.cnn.CNN",
    "data": "src.data.toy.XOR",
    "optimizer": "torch.optim.Adam",
    "scheduler": "torch.optim.lr_scheduler.StepLR",
    "trainer": "lightning.Trainer",
    "callbacks": "src.callbacks.figures.learning_curves.Curves",
    "logger": "lightning.pytorch.loggers.TensorBoardLogger",
    "trainer.profiler": "lightning.pytorch.profilers.SimpleProfiler",
}


def config(key: str, value: object, target: object = None) -> DictConfig:
    """A config of one setting, and the class of what it is a setting of."""
    made = OmegaConf.create({})
    OmegaConf.update(made, key, value)
    parent = key.rpartition(".")[0]
    if kind := CLASSES.get(parent, CLASSES.get(parent.split(".")[0])):
        OmegaConf.update(made, f"{parent}._target_", target or kind)
    if parent == "trainer.profiler":
        OmegaConf.update(made, "trainer._target_", CLASSES["trainer"])
    if key in EVALUATION and key not in CHECKS:
        made.run = made.get("run", "somewhere")
    return made


@pytest.mark.parametrize(("key", "value"), INVALID)
def test_invalid_value_is_named(key: str, value: object) -> None:
    """An invalid value is named together with what it must be."""
    with pytest.raises(InputError) as caught:
        check_config(config(key, value))
    assert str(caught.value) == f"{key}={format_value(value)} must be {(EVALUATION | CHECKS)[key].description}"


def test_every_check_has_both_examples() -> None:
    """Each check is tried with a value that it accepts and one that it refuses."""
    assert (
        {key for key, _ in INVALID} == {key for key, _ in VALID} == {key for key in ALL if not key.startswith("hydra.")}
    )


@pytest.mark.parametrize(("key", "value"), VALID)
def test_valid_value_passes(key: str, value: object) -> None:
    check_config(config(key, value))


FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name not in ("help", "job_logging")]  # not ours


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_each_config_setting_has_a_check(path: Path) -> None:
    """Classes have to be of the right kind, launchers and sweepers have tables of their own, figures have types."""
    text = path.read_text()
    prefix = "" if "@package _global_" in text or path.parent == CONF else ".".join(path.parent.relative_to(CONF).parts)
    names = dict(leaves({prefix: OmegaConf.load(path)} if prefix else OmegaConf.load(path), resolve=False))
    tables = [*vectorized.CHECKS, *local.CHECKS, *ray_cluster.CHECKS, *slurm.CHECKS]
    known = {
        *(ALL | PREDICTION | EXPORT | LOCATION_CHECKS),
        *(f"hydra.launcher.{name}" for name in tables),
        *(f"hydra.sweeper.{name}" for name in [*search_plan.CHECKS, *rungs.CHECKS]),
        *(f"{name}._target_" for name in BASE_CLASSES),
        *("hydra.sweep.subdir", "hydra.mode"),  # looked at with the places; one of Hydra's own words
    }
    several = r"(callbacks|logger)\.\w+\._target_|(.*\.)?defaults|hydra\.job_logging\.root\..*"
    unchecked = [name for name, value in names.items() if value != {} and not re.fullmatch(several, name)]
    missing = [name for name in unchecked if name not in known and not is_checked_elsewhere(name, names)]
    assert missing == [], "add them to src/training/validation/settings.py"


def is_checked_elsewhere(name: str, names: dict[str, Any]) -> bool:
    """Return whether a setting is an axis of a sweep, which has a check, or one whose type a figure's class tells."""
    if name.startswith("hydra.sweeper.params."):
        varied = name.removeprefix("hydra.sweeper.params.")
        return varied in ALL or (CONF / varied).is_dir()
    parent, _, last = name.rpartition(".")
    target = names.get(f"{parent}._target_", "")
    return name.startswith("hydra.callbacks.") and (last.startswith("_") or last in get_hints(get_class(target)))


def test_all_errors_are_reported_at_once() -> None:
    settings = {"model": {"_target_": "src.models.mlp.MLP", "dropout": 2}, "data": {"_target_": 5}, "threads": 0}
    wrong = r"data\._target_=5 must be .*; threads=0 must be .*; model\.dropout=2 must be"
    with pytest.raises(InputError, match=wrong):
        check_config(OmegaConf.create(settings))


def test_custom_classes_accept_any_value() -> None:
    """The values of a custom class's settings are left to that class."""
    check_config(config("model.dropout", [0.1, 0.2], target=f"{__name__}.CustomModel"))


class CustomModel(LightningModule):
    """A model of one's own."""


@pytest.mark.parametrize(
    ("part", "target", "words"),
    [
        ("model", 5, "model._target_=5 must be the name of a class"),
        ("model", None, "model._target_=null must be the name of a class"),
        ("model", ["a"], "model._target_=[a] must be the name of a class"),
        ("model", "no.such.Class", "model._target_=no.such.Class: there is no such class (ModuleNotFoundError"),
        ("model", "src.models.mlp", "model._target_=src.models.mlp: it is not a class"),
        ("model", "os.system", "model._target_=os.system: it is not a class"),
        ("model", "src.data.toy.XOR", "must be a class of lightning.LightningModule"),
        ("data", "src.models.mlp.MLP", "data._target_=src.models.mlp.MLP must be a class of lightning.LightningData"),
        ("optimizer", "torch.Tensor", "optimizer._target_=torch.Tensor must be a class of torch.optim.Optimizer"),
        ("scheduler", "torch.optim.Adam", "must be a class of torch.optim.lr_scheduler.LRScheduler"),
        ("trainer", "lightning.Callback", "must be a class of lightning.Trainer"),
        ("callbacks.mine", "torch.optim.Adam", "callbacks.mine._target_=torch.optim.Adam must be a class of"),
        ("logger.mine", "lightning.Callback", "must be a class of lightning.pytorch.loggers.Logger"),
        ("trainer.profiler", "lightning.Callback", "must be a class of lightning.pytorch.profilers.Profiler"),
    ],
)
def test_class_of_wrong_kind_is_refused(part: str, target: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config(make_class_config(part, target))
    assert words in str(caught.value)


def make_class_config(part: str, target: object) -> DictConfig:
    made = OmegaConf.create({"trainer": {"_target_": "lightning.Trainer"}} if part == "trainer.profiler" else {})
    OmegaConf.update(made, f"{part}._target_", target)
    return made


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        ("optimizer", {"amsgrad": 7}, "optimizer.amsgrad=7 must be true or false"),
        ("trainer", {"detect_anomaly": "x"}, "trainer.detect_anomaly=x must be true or false"),
        ("trainer", {"reload_dataloaders_every_n_epochs": 2**63}, "must be a whole number"),
        (
            "trainer",
            {"limit_predict_batches": "x"},
            "trainer.limit_predict_batches=x must be a whole number or a number",
        ),
        ("callbacks.early_stopping", {"strict": 1}, "callbacks.early_stopping.strict=1 must be true or false"),
        ("callbacks.early_stopping", {"stopping_threshold": float("nan")}, "must be a number or null"),
        ("logger", 5, "logger.a must have a class: logger.a._target_=…"),
        ("model", {"_partial_": True}, "model._partial_: a model has no such setting"),
    ],
)
def test_class_settings_are_checked_by_type(part: str, settings: Any, words: str) -> None:
    """Settings that only a class knows must have the types that it declares."""
    classes = {**CLASSES, "callbacks.early_stopping": "src.callbacks.early_stopping.EarlyStopping"}
    made = {"_target_": classes[part], **settings} if isinstance(settings, dict) else {"a": settings}
    config = OmegaConf.create({})
    OmegaConf.update(config, part, made)
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert words in str(caught.value)


@pytest.mark.parametrize("setting", ["nonsense", "recipe.nonsense", "paths.nonsense"])
def test_a_setting_that_nothing_reads_is_refused(setting: str) -> None:
    made = config(setting, 0.5)
    with pytest.raises(InputError, match=f"{setting}: there is no such setting"):
        check_config(made)
    OmegaConf.update(made, "threads", f"${{{setting}}}")
    OmegaConf.update(made, setting, 2)
    check_config(made)


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(InputError, match=r"ckpt_path=no/such\.ckpt: there is no such file"):
        check_config(OmegaConf.create({"ckpt_path": "no/such.ckpt"}))


def test_two_sources_of_initial_weights_are_refused() -> None:
    weights = {"_target_": "src.models.resnet18.ResNet18", "weights": "IMAGENET1K_V1"}
    with pytest.raises(InputError, match="use only one of them"):
        check_config(OmegaConf.create({"ckpt_path": __file__, "model": weights}))
