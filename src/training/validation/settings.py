"""The table of a run's settings and the check that each value must pass; config.py applies it."""

import re

from src.core.checks import (
    BOOLEAN,
    FRACTION,
    LABEL,
    MAPPING,
    NON_NEGATIVE,
    PATH,
    POSITIVE,
    PROBABILITY,
    SEED,
    TEXT,
    UP_TO_ONE,
    Check,
    allow_any_of,
    allow_count_or_fraction,
    allow_integer,
    allow_list,
    allow_null_or,
    allow_number,
    allow_one_of,
    is_number,
)
from src.core.devices import MAX_THREADS
from src.core.places import LOCATION_CHECKS, MAX_NAME_BYTES
from src.data.tables.reading import DELIMITERS
from src.data.tables.text import MAX_LENGTH
from src.models.layers import ACTIVATIONS, BATCH_NORMS, INITIALISATIONS
from src.models.supervision.losses import LOSSES
from src.storage.trust import TRUST_CHECK

MAX_SAMPLES = 10_000_000
STRING = {"type": "string"}
WIDTH = allow_integer(1, 1_000_000)
IMAGE_COUNT = allow_integer(1, 1000)  # number of images in a figure
FOLDER_NAME = Check(
    lambda value: isinstance(value, str) and "/" not in value and value != ".." and len(value) <= MAX_NAME_BYTES,
    f"a folder's name, of at most {MAX_NAME_BYTES} characters",
    STRING,
)
FILE_NAME = Check(
    lambda value: FOLDER_NAME.allows(value) and value != "", FOLDER_NAME.description.replace("folder", "file"), STRING
)
NETWORK_NAME = Check(
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w.-]{1,100}", value)),
    "the name of a network, such as resnet50",
    STRING,
)
METRIC = Check(
    lambda value: TEXT.allows(value) and value != "" and not value.startswith("test"),
    "the name of a metric of training or validation (test metrics must not decide a choice)",
    STRING,
)
METRICS = allow_list(TEXT, "a list of names of metrics ('[f1,auroc]'; [] for none)", high=100)
LEARNING_RATE = allow_any_of(POSITIVE, allow_one_of("lr"), allow_list(POSITIVE, "a list of numbers above 0", low=1))
STEP_COUNT = allow_any_of(allow_integer(1, 10**12), allow_one_of("total_steps"))
DEVICE_NUMBERS = Check(
    lambda value: allow_list(allow_integer(0, 1023), "", low=1).allows(value) and len(set(value)) == len(value),
    "a list of different device numbers",
    {"type": "array", "items": {"type": "integer"}},
)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", "auto", 32, 64, 16)
DICTIONARY = Check(lambda value: isinstance(value, dict), "settings with a _target_", {"type": "object"})
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
TIME_UNITS = ("weeks", "days", "hours", "minutes", "seconds")
TIME = Check(
    lambda value: (
        isinstance(value, dict)
        and value.keys() <= set(TIME_UNITS)
        and all(is_number(count) and 0 <= count <= 10**6 for count in value.values())
        and any(value.values())
    ),
    f"{{{': …, '.join(TIME_UNITS)}: …}}, any of these units, each up to 1,000,000, and not all 0",
    {"type": "object"},
)
CLOCK_TIME = Check(
    lambda value: (
        isinstance(value, str)
        and bool(re.fullmatch(r"\d{1,6}:\d\d:\d\d:\d\d", value, re.ASCII))
        and any(sign in "123456789" for sign in value)
    ),
    "a time as DD:HH:MM:SS",
    STRING,
)

MIXING = allow_number(
    lambda value: value == 0 or 0.01 <= value <= 100, "0 for none, or a number from 0.01 to 100", minimum=0, maximum=100
)
DECAY = allow_number(
    lambda value: 0 < value < 1, "a number above 0 and below 1, such as 0.999", exclusiveMinimum=0, exclusiveMaximum=1
)


def _allow_file(*suffixes: str) -> Check:
    """Return a check for the path of a file with one of these suffixes."""
    return Check(
        lambda value: PATH.allows(value) and value.endswith(suffixes),
        f"a path that ends in {' or '.join(suffixes)}",
        PATH.schema,
    )


RUN = {
    **LOCATION_CHECKS,
    "seed": allow_null_or(SEED),
    "deterministic": BOOLEAN,
    "threads": allow_null_or(allow_integer(1, MAX_THREADS)),
    "cuda_graph": BOOLEAN,
    "ema": allow_null_or(DECAY),
    "data_on_device": allow_one_of(None, True, False),
    "compile": allow_one_of(None, "default", "reduce-overhead", "max-autotune"),
    "rerun": allow_one_of(None, "failed", "all"),
    "preview": BOOLEAN,
    "trust": TRUST_CHECK,
    "monitor": allow_null_or(METRIC),
    "mode": allow_one_of(None, "min", "max"),
    "metrics": METRICS,
    "test": BOOLEAN,
    "ckpt_path": allow_null_or(PATH),
    "paths.data": PATH,
}

EVALUATION = {  # these replace the checks of the same names when a run is evaluated
    "run": PATH,
    "split": allow_one_of("val", "test"),
    "checkpoint": allow_null_or(PATH),
    "metrics": allow_null_or(METRICS),
    "paths.data": allow_null_or(PATH),
    "trainer.precision": allow_one_of(None, *PRECISIONS),
    "trainer.limit_val_batches": allow_null_or(allow_count_or_fraction(0)),
    "trainer.limit_test_batches": allow_null_or(allow_count_or_fraction(0)),
}

PREDICTION = {  # these replace the checks of the same names when a run predicts
    **{name: EVALUATION[name] for name in ("run", "checkpoint", "paths.data", "trainer.precision")},
    "split": allow_one_of(None, "test", "val", "train"),
    "top": allow_integer(1, 1_000_000),
    "out": allow_null_or(_allow_file(".csv", ".json")),
    "grid": allow_null_or(_allow_file(".png")),
    "explain": BOOLEAN,
}

EXPORT = {  # these replace the checks of the same names when a run is exported
    **{name: EVALUATION[name] for name in ("run", "checkpoint", "paths.data", "trainer.precision")},
    "format": TEXT,
    "out": allow_null_or(PATH),
    "output": allow_one_of(None, "probabilities", "logits"),
    "int8": BOOLEAN,
    "tolerance": NON_NEGATIVE,
    "overwrite": BOOLEAN,
}

MODEL = {
    "model.hidden_size": allow_any_of(WIDTH, allow_list(WIDTH, "a list of them ('[512,512]'; [] for none)")),
    "model.channels": allow_list(allow_integer(1, 100_000), "a list of whole numbers from 1 to 100,000", low=1),
    "model.activation": allow_one_of(*ACTIVATIONS),
    "model.dropout": PROBABILITY,
    "model.batch_norm": allow_one_of(*BATCH_NORMS),
    "model.output_bias": BOOLEAN,
    "model.products": BOOLEAN,
    "model.init": allow_one_of(*INITIALISATIONS),
    "model.init_std": POSITIVE,
    "model.widths": allow_list(allow_integer(1, 100_000), "a list of whole numbers from 1 to 100,000", low=1),
    "model.width": WIDTH,
    "model.blocks": allow_integer(0, 1000),
    "model.heads": allow_integer(1, 1000),
    "model.scaling_factor": POSITIVE,
    "model.batch_norm_momentum": UP_TO_ONE,
    "model.bias_lr_factor": POSITIVE,
    "model.flip_test": BOOLEAN,
    "model.loss": allow_one_of(None, *LOSSES),
    "model.reduction": allow_one_of("mean", "sum"),
    "model.l1": NON_NEGATIVE,
    "model.l2": NON_NEGATIVE,
    "model.distance": allow_one_of("l1", "l2"),
    "model.k": allow_integer(1, MAX_SAMPLES),
    "model.label_smoothing": PROBABILITY,
    "model.class_weights": allow_any_of(
        allow_one_of(None, "balanced"), allow_list(POSITIVE, "a list of numbers above 0, one for each class", low=2)
    ),
    "model.arch": NETWORK_NAME,
    "model.freeze": allow_any_of(allow_one_of("none", "backbone"), allow_integer(0)),
    "model.backbone_lr_factor": POSITIVE,
    "model.stem": allow_one_of("auto", "small", "imagenet"),
    "model.resize": allow_null_or(allow_integer(1, 2048)),
    "model.weights": allow_null_or(PATH),
}

OPTIMIZER = {
    "lr": POSITIVE,
    "betas": allow_list(PROBABILITY, "a list of two numbers from 0 to below 1", low=2, high=2),
    "eps": POSITIVE,
    "weight_decay": NON_NEGATIVE,
    "momentum": PROBABILITY,
    "dampening": FRACTION,
    "nesterov": BOOLEAN,
    "fused": allow_null_or(BOOLEAN),
    "alpha": PROBABILITY,
    "centered": BOOLEAN,
    "momentum_decay": NON_NEGATIVE,
    "decoupled_weight_decay": BOOLEAN,
    "max_iter": allow_integer(1),
    "history_size": allow_integer(1, 100_000),
    "line_search_fn": allow_one_of(None, "strong_wolfe"),
}
OPTIMIZER_CHOICES = ("adam", "adamw", "lbfgs", "muon", "nadam", "rmsprop", "sgd")

SCHEDULER = {
    "scheduler.interval": allow_one_of("step", "epoch"),
    "scheduler.frequency": allow_null_or(allow_integer(1)),
    "scheduler.monitor": allow_null_or(TEXT),
    "scheduler.strict": BOOLEAN,
    "scheduler.name": TEXT,
    "scheduler.reduce_on_plateau": BOOLEAN,
    "scheduler.gamma": POSITIVE,
    "scheduler.T_max": STEP_COUNT,
    "scheduler.eta_min": NON_NEGATIVE,
    "scheduler.max_lr": LEARNING_RATE,
    "scheduler.total_steps": STEP_COUNT,
    "scheduler.pct_start": PROBABILITY,
    "scheduler.div_factor": POSITIVE,
    "scheduler.final_div_factor": POSITIVE,
    "scheduler.anneal_strategy": allow_one_of("cos", "linear"),
    "scheduler.cycle_momentum": BOOLEAN,
    "scheduler.warmup": PROBABILITY,
    "scheduler.start_factor": UP_TO_ONE,
    "scheduler.mode": allow_one_of(None, "min", "max", "triangular", "triangular2", "exp_range"),
    "scheduler.factor": UP_TO_ONE,
    "scheduler.patience": allow_integer(0),
    "scheduler.threshold": NON_NEGATIVE,
    "scheduler.cooldown": allow_integer(0),
    "scheduler.min_lr": allow_any_of(NON_NEGATIVE, allow_list(NON_NEGATIVE, "a list of numbers from 0", low=1)),
}

DATA = {
    "data.root": PATH,
    "data.verify": BOOLEAN,
    "data.cache": PATH,
    "data.stream": allow_one_of(None, True, False),
    "data.labels": allow_null_or(PATH),
    "data.masks": allow_null_or(FILE_NAME),
    "data.classes": allow_null_or(
        allow_list(LABEL, "a list of two names or more ('[background,cat]')", low=2, high=255)
    ),
    "data.size": allow_integer(1, 4096),
    "data.channels": allow_one_of(1, 3),
    "data.mean": allow_null_or(allow_list(FRACTION, "a list of numbers from 0 to 1, one for each channel", low=1)),
    "data.std": allow_null_or(allow_list(UP_TO_ONE, "a list of numbers above 0, up to 1, one for each channel", low=1)),
    "data.batch_size": allow_integer(1),
    "data.val_size": allow_null_or(allow_count_or_fraction(0, MAX_SAMPLES)),
    "data.train_size": allow_null_or(allow_count_or_fraction(1, MAX_SAMPLES)),
    "data.test_size": allow_null_or(allow_count_or_fraction(1, MAX_SAMPLES)),
    "data.noise": NON_NEGATIVE,
    "data.split_seed": SEED,
    "data.order_seed": allow_null_or(SEED),
    "data.shuffle": BOOLEAN,
    "data.drop_last": BOOLEAN,
    "data.gate": allow_one_of("and", "or", "nand", "xor"),
    "data.held_out": allow_integer(0, 8),
    "data.folds": allow_integer(2, 1000),
    "data.fold": allow_integer(0, 999),
    "data.standardize": BOOLEAN,
    "data.flip": BOOLEAN,
    "data.crop": allow_integer(0, 1000),
    "data.crop_padding": allow_one_of("zeros", "reflect"),
    "data.cutout": allow_integer(0, 1000),
    "data.mixup": MIXING,
    "data.cutmix": MIXING,
    "data.file": allow_null_or(PATH),
    "data.target": allow_null_or(
        allow_any_of(TEXT, allow_list(LABEL, "a list of columns ('[width,height]')", low=1)),
    ),
    "data.text": allow_null_or(TEXT),
    "data.max_words": allow_integer(1, 1_000_000),
    "data.max_length": allow_integer(1, MAX_LENGTH),
    "data.test_file": allow_null_or(PATH),
    "data.task": allow_one_of(None, "multiclass", "binary", "multilabel", "regression"),
    "data.target_unit": POSITIVE,
    "data.ignore": allow_any_of(TEXT, allow_list(LABEL, "a list of columns ('[id,name]'; [] for none)")),
    "data.missing": allow_one_of("median", "drop"),
    "data.max_categories": allow_integer(1, 10_000),
    "data.delimiter": allow_one_of(None, *DELIMITERS),
}

CALLBACKS = {
    "callbacks.progress.refresh_rate": allow_integer(1),
    "callbacks.early_stopping.monitor": allow_null_or(METRIC),
    "callbacks.early_stopping.mode": allow_one_of(None, "min", "max"),
    "callbacks.early_stopping.patience": allow_integer(0),
    "callbacks.early_stopping.min_delta": NON_NEGATIVE,
    "callbacks.samples.count": IMAGE_COUNT,
    "callbacks.misclassified.count": IMAGE_COUNT,
    "callbacks.class_probabilities.count": IMAGE_COUNT,
    "callbacks.first_layer.count": IMAGE_COUNT,
    "callbacks.first_layer.every_n_epochs": allow_integer(0),
    "callbacks.feature_maps.count": IMAGE_COUNT,
    "callbacks.augmented_batch.count": IMAGE_COUNT,
    "callbacks.saliency.count": IMAGE_COUNT,
    "callbacks.embedding.count": allow_integer(2, 10_000),
    "callbacks.decision_regions.every_n_epochs": allow_integer(0),
    "callbacks.hidden_space.every_n_epochs": allow_integer(0),
    "callbacks.fit.every_n_epochs": allow_integer(0),
    "callbacks.gradient_norms.every_n_steps": allow_integer(1),
    "logger.tensorboard.name": FOLDER_NAME,
    "logger.tensorboard.version": FOLDER_NAME,
    "logger.tensorboard.default_hp_metric": BOOLEAN,
    "logger.csv.name": FOLDER_NAME,
    "logger.csv.version": allow_null_or(FOLDER_NAME),
    "logger.csv.flush_logs_every_n_steps": allow_integer(1),
    "logger.wandb.project": allow_null_or(TEXT),
    "logger.wandb.entity": allow_null_or(TEXT),
    "logger.wandb.name": allow_null_or(TEXT),
    "logger.wandb.group": allow_null_or(TEXT),
    "logger.wandb.tags": allow_null_or(allow_list(TEXT, "a list of texts")),
    "logger.wandb.offline": BOOLEAN,
    "logger.wandb.log_model": allow_one_of(False),  # checkpoints are kept in the run's folder only
    "logger.mlflow.tracking_uri": allow_null_or(TEXT),
    "logger.mlflow.experiment_name": allow_null_or(TEXT),
    "logger.mlflow.run_name": allow_null_or(TEXT),
    "logger.mlflow.tags": allow_null_or(MAPPING),
    "logger.mlflow.log_model": allow_one_of(False),
}

TRAINER = {
    "trainer.accelerator": allow_one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": allow_any_of(allow_integer(1, 1024), DEVICE_NUMBERS, allow_one_of("auto")),
    "trainer.num_nodes": allow_integer(1, 10_000),
    "trainer.strategy": allow_any_of(allow_one_of(*STRATEGIES), DICTIONARY),
    "trainer.precision": allow_one_of(*PRECISIONS),
    "trainer.max_epochs": allow_integer(1),
    "trainer.min_epochs": allow_null_or(allow_integer(1)),
    "trainer.max_steps": allow_any_of(allow_integer(1, 10**12), allow_one_of(-1)),
    "trainer.min_steps": allow_null_or(allow_integer(1, 10**12)),
    "trainer.max_time": allow_null_or(allow_any_of(CLOCK_TIME, TIME)),
    "trainer.gradient_clip_val": allow_null_or(POSITIVE),
    "trainer.gradient_clip_algorithm": allow_one_of(None, "norm", "value"),
    "trainer.accumulate_grad_batches": allow_integer(1),
    "trainer.log_every_n_steps": allow_integer(1),
    "trainer.check_val_every_n_epoch": allow_integer(1),
    "trainer.val_check_interval": allow_count_or_fraction(1),
    "trainer.limit_train_batches": allow_count_or_fraction(0),
    "trainer.limit_val_batches": allow_count_or_fraction(0),
    "trainer.limit_test_batches": allow_count_or_fraction(0),
    "trainer.overfit_batches": allow_count_or_fraction(0),
    "trainer.benchmark": allow_null_or(BOOLEAN),
    "trainer.inference_mode": BOOLEAN,
    "trainer.detect_anomaly": BOOLEAN,
    "trainer.sync_batchnorm": BOOLEAN,
    "trainer.enable_autolog_hparams": BOOLEAN,
    "trainer.reload_dataloaders_every_n_epochs": allow_integer(0),
    "trainer.profiler": allow_null_or(allow_any_of(allow_one_of("simple", "advanced", "pytorch"), DICTIONARY)),
    "trainer.profiler.filename": allow_null_or(FILE_NAME),
}

RECIPE = {
    "recipe.max_epochs": TRAINER["trainer.max_epochs"],
    "recipe.check_val_every_n_epoch": TRAINER["trainer.check_val_every_n_epoch"],
    "recipe.picture_every_n_epochs": CALLBACKS["callbacks.fit.every_n_epochs"],
    **{f"recipe.{choice}.{name}": check for choice in OPTIMIZER_CHOICES for name, check in OPTIMIZER.items()},
}

CHECKS: dict[str, Check] = {
    **RUN,
    **MODEL,
    **{f"optimizer.{name}": check for name, check in OPTIMIZER.items()},
    **SCHEDULER,
    **DATA,
    **CALLBACKS,
    **TRAINER,
    **RECIPE,
}
