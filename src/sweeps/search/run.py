"""Start a search: the command line's settings become a plan and a space."""

import sys
from typing import Any

import optuna

from src.cli.overrides import refuse_repeated_settings
from src.core.errors import InputError
from src.sweeps.launchers.launch import open_sweep
from src.sweeps.launchers.local import LocalEngine
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.search.asynchronous import AsynchronousSearch
from src.sweeps.search.optimize import Search
from src.sweeps.search.plan import make_plan
from src.sweeps.search.space import read_space


def run_search(launcher: Any, arguments: list[str], settings: dict[str, Any]) -> None:
    """Run a search, or the rest of one that was stopped.

    Args:
        launcher: one of this project's launchers, with its sweep.
        arguments: the overrides of the command line.
        settings: the settings of the sweeper.

    Raises:
        InputError: if a setting is invalid, or no trial has a result.
    """
    plan, preset = make_plan(settings), settings["params"] or {}
    if plan.sampler == "gp" and not hasattr(optuna.samplers, "GPSampler"):
        raise InputError(f"hydra.sweeper.sampler=gp: Optuna {optuna.__version__} does not have it: install a newer one")
    sweep: Sweep = launcher.sweep
    if sweep.config.rerun is not None:
        hint = "its trials depend on earlier ones; start a new search with another name="
        raise InputError(f"rerun={sweep.config.rerun} does not go with hydra/sweeper=optuna: {hint}")
    refuse_repeated_settings(arguments, allow_merging=False)
    overrides = [*(f"{key}={value}" for key, value in preset.items()), *arguments]
    space = read_space(overrides, sweep.context.config_loader)
    kind = AsynchronousSearch if plan.pruner == "asha" else Search
    engine = launcher.make_engine()
    if plan.pruner == "asha" and not isinstance(engine, LocalEngine):
        raise InputError("hydra.sweeper.pruner=asha needs hydra/launcher=local: use pruner=halving with this one")
    if sweep.is_preview:
        from src.sweeps.search.preview import show_search  # imports what only a preview needs

        show_search(sweep, engine, plan, space)
        sys.exit()
    with open_sweep(sweep):
        kind(sweep, engine, plan, space).run()
