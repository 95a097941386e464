"""Print what a search would try and what it would take; nothing is run, and nothing is written."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from src.core.errors import InputError
from src.core.formatting import format_count
from src.storage import schema
from src.storage.configs import select_identifying
from src.sweeps.launchers.launch import Engine, find_refusal
from src.sweeps.launchers.local import call_in_subprocess
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.preview.costs import describe_kind, find_costs
from src.sweeps.preview.show import count_at_once, describe_time, print_preview
from src.sweeps.search.plan import SearchPlan
from src.sweeps.search.space import SearchSpace
from src.sweeps.store.jobs import JOB_FILE, Job, describe_job
from src.sweeps.store.searches import SEARCH_FILE
from src.sweeps.workers.pool import get_mp_context


def show_search(sweep: Sweep, engine: Engine, plan: SearchPlan, space: SearchSpace) -> None:
    """Print the preview of a search.

    Raises:
        InputError: if the search would be refused.
    """
    setup_globals()
    settings = check_search(sweep, space, getattr(engine, "start_method", None))
    states = read_states(sweep, space, settings)
    ended = {state: states[state] for state in ("complete", "pruned", "failed") if states[state]}
    done = sum(ended.values())
    left = max(plan.trials, states.total()) - done
    before = f", {done} done before ({', '.join(f'{count} {state}' for state, count in ended.items())})" if done else ""
    title = f"{sweep.folder}: {format_count(plan.trials, 'trial')} ({plan.sampler}){before}, {left} to do"
    rows = [("searched", f"{setting.name}: {setting}") for setting in space.dimensions]
    rows += [("fixed", part) for part in space.parts if isinstance(part, str) and not part.startswith("preview=")]
    if left:
        rows += describe_trials(sweep, engine, plan, settings, left)
    print_preview([title], rows, "", bool(left))


def check_search(sweep: Sweep, space: SearchSpace, start_method: str | None) -> dict[str, Any]:
    """Refuse a search that its start would refuse; return the settings of a job with the lowest values.

    Raises:
        InputError: with the reason.
    """

    def compose(chosen: dict[str, Any]) -> DictConfig:
        loader: Any = sweep.context.config_loader
        return loader.compose(sweep.config, space.make_overrides(lowest | chosen))

    lowest = {setting.name: setting.lowest for setting in space.dimensions}
    for setting in space.dimensions:
        for choice in setting.choices:
            compose({setting.name: choice})  # raises for a wrong choice
    config = compose({})
    refusal = call_in_subprocess(get_mp_context(start_method), find_refusal, [pickle.dumps(config)])
    if refusal and not any(f"{setting.name}=" in refusal for setting in space.dimensions):
        raise InputError(refusal)
    HydraConfig.instance().set_config(config)
    return dict(describe_job(config)["settings"])


def read_states(sweep: Sweep, space: SearchSpace, settings: dict[str, Any]) -> Counter[str]:
    """Return the number of earlier trials by their states.

    The journal is not opened, since it may be repaired then, and another process may be writing it.

    Raises:
        InputError: if the folder has another search or another sweep.
    """
    folder = sweep.folder
    state = schema.read_checked(folder / SEARCH_FILE, schema.SEARCH)
    if state is None:
        if list(folder.glob(f"*/{JOB_FILE}")):
            raise InputError(f"{folder} has the jobs of a sweep that is not a search: choose another name=")
        return Counter()
    now = {key: str(value) for key, value in select_identifying(settings).items()}
    now |= {setting.name: str(setting) for setting in space.dimensions}
    made_of = state.get("made_of")
    for key, old in made_of.items() if isinstance(made_of, dict) else ():
        if not key.startswith("hydra.") and now.get(key) != str(old):
            other = f"the search in {folder} has {old}"
            raise InputError(
                f"{key} is {now.get(key, 'no value')} and {other}: use that value, or choose another name="
            )
    return Counter(trial["state"] for trial in state["trials"])


def describe_trials(
    sweep: Sweep, engine: Engine, plan: SearchPlan, settings: dict[str, Any], left: int
) -> list[tuple[str, str]]:
    """Return lines on what the trials that are left take."""
    jobs = [Job(sweep.folder, 0, "", [], {}, settings)]  # its settings tell what each of the trials needs
    most = min(plan.at_once, count_at_once(engine, jobs) or plan.at_once)
    rows = [("at once", f"{format_count(plan.at_once, 'trial')} suggested together, at most {most} at a time")]
    limit = settings.get("trainer.max_epochs")
    if not (isinstance(limit, int) and limit > 0):
        return [*rows, ("epochs", "unknown: trainer.max_epochs sets no limit")]
    rows.append(("epochs", f"at most {plan.trials * limit:,} in all, of which {left * limit:,} are left"))
    kind = describe_kind(settings, is_stacked=False)
    costs = find_costs(sweep.folder, {kind}, Path(sweep.config.paths.outputs))
    if not costs.all:
        return [*rows, ("time", "unknown until the first trial has finished: stop the search then, and preview again")]
    mean = costs.estimate(kind)
    longest = mean.epoch_seconds * limit + mean.other_seconds
    return [*rows, ("time", describe_time(left * longest, longest, most, costs))]
