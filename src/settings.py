"""The checks of settings, all in one place, made before any data is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.configs import flat
from src.errors import InputError
from src.models.layers import ACTIVATIONS, BATCH_NORMS, INITIALISATIONS
from src.models.losses import LOSSES

Check = tuple[Callable[[Any], bool], str]  # whether a value will do, and in words what would


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole_from(low: int) -> Check:
    return lambda value: whole(value) and value >= low, f"a whole number, {low} or more"


def share(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def sizes(value: Any) -> bool:
    return isinstance(value, list) and all(whole(item) and item >= 1 for item in value)


def one_of(*choices: Any) -> Check:
    """One of the choices, of the same type (1 is not true)."""
    names = [str(choice).lower() for choice in choices]
    return (
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
        f"{', '.join(names[:-1])} or {names[-1]}",
    )


def optional(check: Check) -> Check:
    return lambda value: value is None or check[0](value), f"null or {check[1]}"


ABOVE_ZERO: Check = (lambda value: number(value) and 0 < value < float("inf"), "a number above 0")
FROM_ZERO: Check = (lambda value: number(value) and 0 <= value < float("inf"), "a number, 0 or more")
PROBABILITY: Check = (lambda value: number(value) and 0 <= value < 1, "a number from 0 to below 1")
SWITCH: Check = (lambda value: isinstance(value, bool), "true or false")
AMOUNT: Check = (lambda value: (whole(value) and value >= 0) or share(value), "a count, or a share from 0.0 to 1.0")
STEPS: Check = (
    lambda value: value == "total_steps" or (whole(value) and value >= 1),
    "a whole number above 0, or total_steps",
)
SPLIT: Check = (lambda value: value in ("val", "test"), "val or test")

CHECKS: dict[str, Check] = {
    "seed": optional((lambda value: whole(value) and 0 <= value < 2**32, "a whole number from 0 to 2³²−1")),
    "deterministic": SWITCH,
    "threads": optional(whole_from(1)),
    "compile": optional(one_of("default", "reduce-overhead", "max-autotune")),
    "split": SPLIT,
    "model.hidden_size": (
        lambda value: (whole(value) and value >= 1) or sizes(value),
        "a whole number above 0 or a list of them ('[512,512]'; [] for none)",
    ),
    "model.channels": (lambda value: sizes(value) and len(value) > 0, "a list of whole numbers above 0"),
    "model.activation": one_of(*ACTIVATIONS),
    "model.dropout": PROBABILITY,
    "model.batch_norm": one_of(*BATCH_NORMS),
    "model.output_bias": SWITCH,
    "model.products": SWITCH,
    "model.init": one_of(*INITIALISATIONS),
    "model.init_std": ABOVE_ZERO,
    "model.convolutions": whole_from(1),
    "model.pool": one_of("last", "first"),
    "model.whiten": whole_from(0),
    "model.global_pool": SWITCH,
    "model.output_scale": ABOVE_ZERO,
    "model.norm_scale": SWITCH,
    "model.norm_momentum": (lambda value: number(value) and 0 < value <= 1, "a number above 0, up to 1"),
    "model.norm_bias_lr": ABOVE_ZERO,
    "model.flip_test": SWITCH,
    "model.loss": optional(one_of(*LOSSES)),
    "model.reduction": one_of("mean", "sum"),
    "model.l1": FROM_ZERO,
    "model.l2": FROM_ZERO,
    "model.distance": one_of("l1", "l2"),
    "model.k": whole_from(1),
    "model.block": whole_from(1),
    "model.label_smoothing": PROBABILITY,
    "model.freeze": (
        lambda value: value in ("none", "backbone") or (whole(value) and value >= 0),
        "none, backbone or a number of epochs",
    ),
    "model.backbone_lr_factor": ABOVE_ZERO,
    "model.stem": (lambda value: value in ("auto", "small", "imagenet"), "auto, small or imagenet"),
    "model.resize": optional(whole_from(1)),
    "optimizer.lr": ABOVE_ZERO,
    "optimizer.weight_decay": FROM_ZERO,
    "optimizer.momentum": PROBABILITY,
    "scheduler.gamma": ABOVE_ZERO,
    "scheduler.T_max": STEPS,
    "scheduler.total_steps": STEPS,
    "scheduler.pct_start": (lambda value: number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "scheduler.div_factor": ABOVE_ZERO,
    "scheduler.final_div_factor": ABOVE_ZERO,
    "scheduler.anneal_strategy": one_of("cos", "linear"),
    "scheduler.cycle_momentum": SWITCH,
    "scheduler.interval": (lambda value: value in ("step", "epoch"), "step or epoch"),
    "data.verify": SWITCH,
    "data.batch_size": whole_from(1),
    "data.val_size": AMOUNT,
    "data.train_size": optional((lambda value: AMOUNT[0](value) and value > 0, "a count or a share above 0")),
    "data.test_size": whole_from(1),
    "data.noise": FROM_ZERO,
    "data.split_seed": whole_from(0),
    "data.shuffle": SWITCH,
    "data.drop_last": SWITCH,
    "data.gate": one_of("and", "or", "nand", "xor"),
    "data.held_out": whole_from(0),
    "data.folds": whole_from(2),
    "data.fold": whole_from(0),
    "data.standardize": SWITCH,
    "data.flip": SWITCH,
    "data.crop": whole_from(0),
    "data.crop_padding": one_of("zeros", "reflect"),
    "data.cutout": whole_from(0),
    "callbacks.early_stopping.patience": whole_from(0),
    "callbacks.samples.count": whole_from(1),
    "callbacks.misclassified.count": whole_from(1),
    "callbacks.class_probabilities.count": whole_from(1),
    "callbacks.first_layer.count": whole_from(1),
    "callbacks.first_layer.every_n_epochs": whole_from(0),
    "callbacks.feature_maps.count": whole_from(1),
    "callbacks.augmented_batch.count": whole_from(1),
    "callbacks.decision_regions.every_n_epochs": whole_from(0),
    "callbacks.hidden_space.every_n_epochs": whole_from(0),
    "callbacks.fit.every_n_epochs": whole_from(0),
    "callbacks.gradient_norms.every_n_steps": whole_from(1),
    "trainer.max_epochs": whole_from(1),
    "trainer.check_val_every_n_epoch": whole_from(1),
    "trainer.max_steps": (lambda value: value == -1 or (whole(value) and value >= 1), "a whole number above 0, or -1"),
    "trainer.gradient_clip_val": optional(ABOVE_ZERO),
    "trainer.accumulate_grad_batches": whole_from(1),
    "trainer.log_every_n_steps": whole_from(1),
    "trainer.devices": (
        lambda value: value == "auto" or (whole(value) and value >= 1) or isinstance(value, (list, str)),
        "a whole number above 0, a list of device numbers, or auto",
    ),
    "trainer.num_nodes": whole_from(1),
    "trainer.accelerator": (
        lambda value: value in ("auto", "cpu", "gpu", "cuda", "mps"),
        "auto, cpu, gpu, cuda or mps",
    ),
}


def check(cfg: DictConfig) -> None:
    """Refuse settings of a wrong type or out of range.

    Settings that a config does not have are passed over, and those of classes of one's own.

    Raises:
        InputError: naming each such setting, its value and what it must be.
    """
    wrong = wrong_values(flat(cfg))
    if not cfg.get("resume"):  # a resumed run needs them no more
        wrong += missing_files(cfg)
    if OmegaConf.select(cfg, "ckpt_path") and OmegaConf.select(cfg, "model.weights"):
        wrong.append("ckpt_path and model.weights both give the first weights: use one of them")
    if wrong:
        raise InputError("; ".join(wrong))


def wrong_values(settings: dict[str, Any]) -> list[str]:
    """What is wrong with settings, given by their full names."""
    wrong = []
    for key, (will_do, words) in CHECKS.items():
        target = settings.get(f"{key.split('.')[0]}._target_")
        if target and not target.startswith(("src.", "torch.", "lightning.")):
            continue
        if key in settings and not will_do(settings[key]):
            wrong.append(f"{key}={settings[key]} must be {words}")
    return wrong


def missing_files(cfg: DictConfig) -> list[str]:
    """What is wrong with the checkpoints that a new run is to start from."""
    path, weights = cfg.get("ckpt_path"), OmegaConf.select(cfg, "model.weights")
    wrong = [] if not path or Path(path).is_file() else [f"ckpt_path={path}: there is no such file"]
    if weights and OmegaConf.select(cfg, "model._target_") == "src.models.resnet18.ResNet18":
        from src.models.resnet18 import published_names  # torchvision's models take a while to import

        if weights not in published_names() and not Path(weights).is_file():
            names = ", ".join(published_names())
            wrong.append(f"model.weights={weights}: there is no such file, and published weights are {names}")
    return wrong
