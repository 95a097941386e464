"""The table of a run's settings and the check that each value must pass; config.py applies it."""

import re

from src.core.checks import (
    ABOVE_ZERO,
    FRACTION,
    FROM_ZERO,
    MAPPING,
    PATH,
    PROBABILITY,
    SEED,
    SWITCH,
    TEXT,
    Check,
    count_or_fraction,
    either,
    is_number,
    list_of,
    one_of,
    optional,
    whole,
)
from src.core.devices import MOST_THREADS
from src.core.places import LONGEST_NAME, PLACES
from src.models.layers import ACTIVATIONS, BATCH_NORMS, INITIALISATIONS
from src.models.losses import LOSSES
from src.storage.trust import TRUSTED

MOST_SAMPLES = 10_000_000
WIDTH = whole(1, 1_000_000)
PICTURES = whole(1, 1000)  # number of images in a figure
FOLDER = Check(
    lambda value: isinstance(value, str) and "/" not in value and value != ".." and len(value) <= LONGEST_NAME,
    f"a folder's name, of at most {LONGEST_NAME} characters",
)
FILE = Check(lambda value: FOLDER.allows(value) and value != "", FOLDER.words.replace("folder", "file"))
METRIC = Check(
    lambda value: TEXT.allows(value) and value != "" and not value.startswith("test"),
    "the name of a metric of training or validation (the test has no say in a choice)",
)
RATE = either(ABOVE_ZERO, one_of("lr"), list_of(ABOVE_ZERO, "a list of numbers above 0", low=1))
STEPS = either(whole(1, 10**12), one_of("total_steps"))
DEVICE_NUMBERS = Check(
    lambda value: list_of(whole(0, 1023), "", low=1).allows(value) and len(set(value)) == len(value),
    "a list of different device numbers",
)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", "auto", 32, 64, 16)
DICTIONARY = Check(lambda value: isinstance(value, dict), "settings with a _target_")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
TIME_UNITS = ("weeks", "days", "hours", "minutes", "seconds")
TIME = Check(
    lambda value: (
        isinstance(value, dict)
        and value.keys() <= set(TIME_UNITS)
        and all(is_number(count) and 0 <= count <= 10**6 for count in value.values())
        and any(value.values())
    ),
    f"{{{': …, '.join(TIME_UNITS)}: …}}, as many of them as needed, each up to 1,000,000, and more than no time at all",
)
CLOCK = Check(
    lambda value: (
        isinstance(value, str)
        and bool(re.fullmatch(r"\d{1,6}:\d\d:\d\d:\d\d", value, re.ASCII))
        and any(sign in "123456789" for sign in value)
    ),
    "a time as DD:HH:MM:SS",
)

UP_TO_ONE = Check(lambda value: is_number(value) and 0 < value <= 1, "a number above 0, up to 1")

RUN = {
    **PLACES,
    "seed": optional(SEED),
    "deterministic": SWITCH,
    "threads": optional(whole(1, MOST_THREADS)),
    "cuda_graph": SWITCH,
    "data_on_device": one_of(None, True, False),
    "compile": one_of(None, "default", "reduce-overhead", "max-autotune"),
    "rerun": one_of(None, "failed", "all"),
    "trust": TRUSTED,
    "monitor": optional(METRIC),
    "mode": one_of(None, "min", "max"),
    "test": SWITCH,
    "ckpt_path": optional(PATH),
    "paths.data": PATH,
}

EVALUATION = {  # these replace the checks of the same names when a run is evaluated
    "run": PATH,
    "split": one_of("val", "test"),
    "checkpoint": optional(PATH),
    "paths.data": optional(PATH),
    "trainer.precision": one_of(None, *PRECISIONS),
    "trainer.limit_val_batches": optional(count_or_fraction(0)),
    "trainer.limit_test_batches": optional(count_or_fraction(0)),
}

MODEL = {
    "model.hidden_size": either(WIDTH, list_of(WIDTH, "a list of them ('[512,512]'; [] for none)")),
    "model.channels": list_of(whole(1, 100_000), "a list of whole numbers from 1 to 100,000", low=1),
    "model.activation": one_of(*ACTIVATIONS),
    "model.dropout": PROBABILITY,
    "model.batch_norm": one_of(*BATCH_NORMS),
    "model.output_bias": SWITCH,
    "model.products": SWITCH,
    "model.init": one_of(*INITIALISATIONS),
    "model.init_std": ABOVE_ZERO,
    "model.convolutions": whole(1, 100),
    "model.pool": one_of("last", "first"),
    "model.whiten": whole(0, 1000),
    "model.global_pool": SWITCH,
    "model.output_scale": ABOVE_ZERO,
    "model.norm_scale": SWITCH,
    "model.norm_momentum": Check(lambda value: is_number(value) and 0 < value <= 1, "a number above 0, up to 1"),
    "model.norm_bias_lr": ABOVE_ZERO,
    "model.flip_test": SWITCH,
    "model.loss": one_of(None, *LOSSES),
    "model.reduction": one_of("mean", "sum"),
    "model.l1": FROM_ZERO,
    "model.l2": FROM_ZERO,
    "model.distance": one_of("l1", "l2"),
    "model.k": whole(1, MOST_SAMPLES),
    "model.block": whole(1, 100_000),
    "model.label_smoothing": PROBABILITY,
    "model.freeze": either(one_of("none", "backbone"), whole(0)),
    "model.backbone_lr_factor": ABOVE_ZERO,
    "model.stem": one_of("auto", "small", "imagenet"),
    "model.resize": optional(whole(1, 2048)),
    "model.weights": optional(PATH),
}

OPTIMIZER = {
    "lr": ABOVE_ZERO,
    "betas": list_of(PROBABILITY, "a list of two numbers from 0 to below 1", low=2, high=2),
    "eps": ABOVE_ZERO,
    "weight_decay": FROM_ZERO,
    "momentum": PROBABILITY,
    "dampening": FRACTION,
    "nesterov": SWITCH,
    "fused": optional(SWITCH),
    "alpha": PROBABILITY,
    "centered": SWITCH,
    "momentum_decay": FROM_ZERO,
    "decoupled_weight_decay": SWITCH,
    "max_iter": whole(1),
    "history_size": whole(1, 100_000),
    "line_search_fn": one_of(None, "strong_wolfe"),
}
CHOICES_OF_OPTIMIZERS = ("adam", "adamw", "lbfgs", "muon", "nadam", "rmsprop", "sgd")

SCHEDULER = {
    "scheduler.interval": one_of("step", "epoch"),
    "scheduler.frequency": optional(whole(1)),
    "scheduler.monitor": optional(TEXT),
    "scheduler.strict": SWITCH,
    "scheduler.name": TEXT,
    "scheduler.reduce_on_plateau": SWITCH,
    "scheduler.gamma": ABOVE_ZERO,
    "scheduler.T_max": STEPS,
    "scheduler.eta_min": FROM_ZERO,
    "scheduler.max_lr": RATE,
    "scheduler.total_steps": STEPS,
    "scheduler.pct_start": PROBABILITY,
    "scheduler.div_factor": ABOVE_ZERO,
    "scheduler.final_div_factor": ABOVE_ZERO,
    "scheduler.anneal_strategy": one_of("cos", "linear"),
    "scheduler.cycle_momentum": SWITCH,
    "scheduler.warmup": PROBABILITY,
    "scheduler.start_factor": UP_TO_ONE,
    "scheduler.mode": one_of(None, "min", "max", "triangular", "triangular2", "exp_range"),
    "scheduler.factor": UP_TO_ONE,
    "scheduler.patience": whole(0),
    "scheduler.threshold": FROM_ZERO,
    "scheduler.cooldown": whole(0),
    "scheduler.min_lr": either(FROM_ZERO, list_of(FROM_ZERO, "a list of numbers from 0", low=1)),
}

DATA = {
    "data.root": PATH,
    "data.verify": SWITCH,
    "data.batch_size": whole(1),
    "data.val_size": count_or_fraction(0, MOST_SAMPLES),
    "data.train_size": optional(count_or_fraction(1, MOST_SAMPLES)),
    "data.test_size": whole(1, MOST_SAMPLES),
    "data.noise": FROM_ZERO,
    "data.split_seed": SEED,
    "data.order_seed": optional(SEED),
    "data.shuffle": SWITCH,
    "data.drop_last": SWITCH,
    "data.gate": one_of("and", "or", "nand", "xor"),
    "data.held_out": whole(0, 8),
    "data.folds": whole(2, 1000),
    "data.fold": whole(0, 999),
    "data.standardize": SWITCH,
    "data.flip": SWITCH,
    "data.crop": whole(0, 1000),
    "data.crop_padding": one_of("zeros", "reflect"),
    "data.cutout": whole(0, 1000),
}

CALLBACKS = {
    "callbacks.progress.refresh_rate": whole(0),
    "callbacks.early_stopping.monitor": optional(METRIC),
    "callbacks.early_stopping.mode": one_of(None, "min", "max"),
    "callbacks.early_stopping.patience": whole(0),
    "callbacks.early_stopping.min_delta": FROM_ZERO,
    "callbacks.samples.count": PICTURES,
    "callbacks.misclassified.count": PICTURES,
    "callbacks.class_probabilities.count": PICTURES,
    "callbacks.first_layer.count": PICTURES,
    "callbacks.first_layer.every_n_epochs": whole(0),
    "callbacks.feature_maps.count": PICTURES,
    "callbacks.augmented_batch.count": PICTURES,
    "callbacks.decision_regions.every_n_epochs": whole(0),
    "callbacks.hidden_space.every_n_epochs": whole(0),
    "callbacks.fit.every_n_epochs": whole(0),
    "callbacks.gradient_norms.every_n_steps": whole(1),
    "logger.tensorboard.name": FOLDER,
    "logger.tensorboard.version": FOLDER,
    "logger.tensorboard.default_hp_metric": SWITCH,
    "logger.csv.name": FOLDER,
    "logger.csv.version": optional(FOLDER),
    "logger.csv.flush_logs_every_n_steps": whole(1),
    "logger.wandb.project": optional(TEXT),
    "logger.wandb.entity": optional(TEXT),
    "logger.wandb.name": optional(TEXT),
    "logger.wandb.group": optional(TEXT),
    "logger.wandb.tags": optional(list_of(TEXT, "a list of texts")),
    "logger.wandb.offline": SWITCH,
    "logger.wandb.log_model": one_of(False),  # checkpoints are kept in the run's folder only
    "logger.mlflow.tracking_uri": optional(TEXT),
    "logger.mlflow.experiment_name": optional(TEXT),
    "logger.mlflow.run_name": optional(TEXT),
    "logger.mlflow.tags": optional(MAPPING),
    "logger.mlflow.log_model": one_of(False),
}

TRAINER = {
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": either(whole(1, 1024), DEVICE_NUMBERS, one_of("auto")),
    "trainer.num_nodes": whole(1, 10_000),
    "trainer.strategy": either(one_of(*STRATEGIES), DICTIONARY),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.max_epochs": whole(1),
    "trainer.min_epochs": optional(whole(1)),
    "trainer.max_steps": either(whole(1, 10**12), one_of(-1)),
    "trainer.min_steps": optional(whole(1, 10**12)),
    "trainer.max_time": optional(either(CLOCK, TIME)),
    "trainer.gradient_clip_val": optional(ABOVE_ZERO),
    "trainer.gradient_clip_algorithm": one_of(None, "norm", "value"),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.log_every_n_steps": whole(1),
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.val_check_interval": count_or_fraction(1),
    "trainer.limit_train_batches": count_or_fraction(0),
    "trainer.limit_val_batches": count_or_fraction(0),
    "trainer.limit_test_batches": count_or_fraction(0),
    "trainer.overfit_batches": count_or_fraction(0),
    "trainer.benchmark": optional(SWITCH),
    "trainer.inference_mode": SWITCH,
    "trainer.detect_anomaly": SWITCH,
    "trainer.sync_batchnorm": SWITCH,
    "trainer.enable_autolog_hparams": SWITCH,
    "trainer.reload_dataloaders_every_n_epochs": whole(0),
    "trainer.profiler": optional(either(one_of("simple", "advanced", "pytorch"), DICTIONARY)),
    "trainer.profiler.filename": optional(FILE),
}

RECIPE = {
    "recipe.max_epochs": TRAINER["trainer.max_epochs"],
    "recipe.check_val_every_n_epoch": TRAINER["trainer.check_val_every_n_epoch"],
    "recipe.picture_every_n_epochs": CALLBACKS["callbacks.fit.every_n_epochs"],
    **{f"recipe.{choice}.{name}": check for choice in CHOICES_OF_OPTIMIZERS for name, check in OPTIMIZER.items()},
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
