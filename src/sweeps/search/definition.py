"""What defines a search: it is determined at the first start, and must be the same when the search is resumed."""

import json
import pickle
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.core.checks import format_value
from src.core.errors import InputError
from src.storage.configs import select_identifying
from src.storage.files import read_json
from src.sweeps.launchers.launch import find_refusal
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.search.plan import PRUNER, SearchPlan
from src.sweeps.search.rungs import Rung, plan_rungs
from src.sweeps.search.space import SearchSpace
from src.sweeps.search.study import Study, StudyInfo
from src.sweeps.store.jobs import JOB_FILE, Job, describe_job
from src.sweeps.store.searches import SEARCH_FILE

COSTS = ("parameters", "seconds", "epochs")  # in each run's metrics.json, in addition to what is measured
OBJECTIVES = "hydra.sweeper.objectives"
EARLIER = {OBJECTIVES: "null", PRUNER: "none"}  # of searches that were started before there were these settings
MISSING = "no value"


class Definition:
    """The definition of a search.

    Args:
        sweep: the sweep; each trial is one of its jobs.
        plan: the settings of the search itself.
        space: the settings that are searched.
    """

    def __init__(self, sweep: Sweep, plan: SearchPlan, space: SearchSpace) -> None:
        self.sweep, self.plan, self.space = sweep, plan, space
        self.rungs: list[Rung] = []  # where the trials of a group are compared

    def resolve(self, study: Study) -> StudyInfo:
        """Return what defines the search; at its first start it is determined, saved and checked.

        Raises:
            InputError: if the folder has another search or another sweep.
        """
        settings = self.describe(config := self.make_config({}))
        made_of = self.list_parts(settings)
        if about := study.info:
            self.check_same(about.made_of, made_of)
            self.plan_rungs([settings])
            return about
        folder = self.sweep.folder
        if list(folder.glob(f"*/{JOB_FILE}")):  # the journal is lost, or the sweep is no search
            before = (read_json(folder / SEARCH_FILE) or {}).get("made_of")
            if not isinstance(before, dict):
                raise InputError(f"{folder} has the jobs of a sweep that is not a search: choose another name=")
            self.check_same(before, made_of)
        self.refuse_fixed(config)
        about = StudyInfo(*find_search_metric(config, self.plan.objectives), made_of, self.plan.objectives or None)
        further = [{each.name: value} for each in self.space.dimensions for value in each.choices or [each.highest]]
        configs = [self.make_config(chosen) for chosen in further]  # a wrong choice fails now instead of in a trial
        self.plan_rungs([settings, *map(self.describe, configs)])
        study.start(about)
        return about

    def plan_rungs(self, possible: list[dict[str, Any]]) -> None:
        """Plan the rungs of a halved search for jobs with these settings.

        Raises:
            InputError: if they cannot be compared at each rung.
        """
        if self.plan.has_rungs:
            jobs = [Job(self.sweep.folder, 0, "", [], {}, settings) for settings in possible]
            self.rungs = plan_rungs(self.plan.rung_settings, jobs, self.plan.pruner_setting)

    def refuse_fixed(self, config: DictConfig) -> None:
        """Raise an error if a setting that is not searched makes every trial fail.

        A searched setting that is refused raises no error here: other values may be valid, and its trials fail alone.

        Raises:
            InputError: with the reason.
        """
        refusal = find_refusal([pickle.dumps(config)])
        HydraConfig.instance().set_config(self.sweep.config)
        if refusal and not any(f"{setting.name}=" in refusal for setting in self.space.dimensions):
            raise InputError(refusal)

    def list_parts(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return all settings that identify the search, from those of a typical job."""
        plan = self.plan
        parts = {
            "hydra.sweeper.sampler": plan.sampler,
            "hydra.sweeper.seed": plan.seed,
            OBJECTIVES: format_value(plan.objectives or None),
            PRUNER: plan.pruner,
            **{f"hydra.sweeper.{name}": getattr(plan, name) for name in ("min_epochs", "factor") if plan.has_rungs},
            **select_identifying(settings),
            **{setting.name: str(setting) for setting in self.space.dimensions},
        }
        return cast(dict[str, Any], json.loads(json.dumps(parts, default=str)))

    def describe(self, config: DictConfig) -> dict[str, Any]:
        """Return all settings of a job by their full names."""
        HydraConfig.instance().set_config(config)
        settings = describe_job(config)["settings"]
        HydraConfig.instance().set_config(self.sweep.config)
        return cast(dict[str, Any], settings)

    def make_config(self, chosen: dict[str, Any]) -> DictConfig:
        """Return the config of a job with the chosen values and the lowest value of each other searched setting."""
        lowest = {setting.name: setting.lowest for setting in self.space.dimensions}
        loader: Any = self.sweep.context.config_loader
        return cast(DictConfig, loader.compose(self.sweep.config, self.space.make_overrides(lowest | chosen)))

    def check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Check that this is the search in the folder.

        Raises:
            InputError: naming the first setting that differs.
        """
        for key in dict.fromkeys([*before, *now]):
            old, new = before.get(key, EARLIER.get(key, MISSING)), now.get(key, MISSING)
            if old != new:
                other = f"the search in {self.sweep.folder} has {old}"
                raise InputError(f"{key} is {new} and {other}: use that value, or choose another name=")


def find_search_metric(config: DictConfig, objectives: dict[str, str]) -> tuple[str, str]:
    """Return the monitored metric and its mode, and check that a run has the objectives, if there are any.

    Raises:
        InputError: if there is no validation set, or an objective is never measured.
    """
    from src.callbacks.monitor import check_measured, format_metric_name, resolve_monitor
    from src.training.build import build_data  # imports PyTorch, which only a new search needs here

    data = build_data(config)
    name, mode = resolve_monitor(config, data)
    if name is None:
        raise InputError("a search needs a validation set to judge its trials by: data.val_size is 0")
    for objective in objectives:
        if objective not in COSTS:
            check_measured(OBJECTIVES, objective, config, data)
    return format_metric_name(name), mode
