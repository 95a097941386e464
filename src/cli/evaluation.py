"""Checks of an evaluation's settings, some of which only affect training. Imports nothing heavy."""

from collections.abc import Iterable, Mapping
from typing import Any

from src.core.errors import InputError

EVALUATION_SETTINGS = (
    "accelerator",
    "benchmark",
    "detect_anomaly",
    "devices",
    "inference_mode",
    "limit_test_batches",
    "limit_val_batches",
    "num_nodes",
    "precision",
    "profiler",
    "strategy",
)
# The trainer's settings that have an effect, by the name of the command's config.
TRAINER_SETTINGS: dict[str, tuple[str, ...]] = {
    "eval": EVALUATION_SETTINGS,
    "predict": ("accelerator", "devices", "precision"),
    "export": (),
}


def refuse_limits(cfg: Mapping[str, Any]) -> None:
    """Refuse a batch limit of the split that is not evaluated, and a limit of 0.

    Raises:
        InputError: naming the limit.
    """
    for split in ("val", "test"):
        limit = cfg["trainer"][f"limit_{split}_batches"]
        if limit is not None and split != cfg["split"]:
            raise InputError(f"trainer.limit_{split}_batches={limit} has no effect with split={cfg['split']}")
        if limit == 0:
            raise InputError(f"trainer.limit_{split}_batches={limit}: there is nothing to evaluate")


def is_training_setting(setting: str, config: str) -> bool:
    """Return True if a setting, given by its full name, is a trainer setting without effect in a command.

    Args:
        setting: the setting.
        config: the name of the command's config, "eval", "predict" or "export".
    """
    group, _, name = setting.partition(".")
    return group == "trainer" and bool(name) and name.split(".")[0] not in (*TRAINER_SETTINGS[config], "_target_")


def refuse_training_settings(overrides: Iterable[str], config: str = "eval") -> None:
    """Refuse typed settings that have no effect in a command, of which ``config`` is the config's name.

    Raises:
        InputError: naming the first of them.
    """
    for argument in overrides:
        if is_training_setting(name := argument.partition("=")[0].lstrip("+~"), config):
            if not TRAINER_SETTINGS[config]:
                raise InputError(f"{name} has no effect in an export, which uses the CPU and float32")
            *first, last = TRAINER_SETTINGS[config]
            where = {"eval": "an evaluation", "predict": "a prediction"}[config]
            known = f"{', '.join(first)} and {last}"
            raise InputError(f"{name} has no effect in {where}, where trainer's only settings are {known}")
