"""Launchers and sweepers as Hydra plugins; Hydra requires that they are defined in a ``hydra_plugins`` package."""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from src.cli.messages import describe_unknown_choice
from src.core.errors import InputError
from src.storage.files import write_text


class SweepLauncher(Launcher):
    """Launcher that plans a sweep, skips the jobs already done in its folder and runs the others with an engine.

    Heavy modules are imported when a sweep starts, since Hydra imports this module for every command.

    Args:
        settings: the engine's.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.launchers.compose import CachingConfigLoader
        from src.sweeps.launchers.sweep import Sweep

        loader: Any = CachingConfigLoader(hydra_context.config_loader)
        hydra_context.config_loader = loader  # for the sweeper, too
        self.sweep = Sweep(config, hydra_context, task_function.__name__)
        if not self.sweep.is_preview and not list(
            self.sweep.folder.glob("*/job.json")
        ):  # otherwise all jobs may be done already
            self.make_engine().warm_up()  # while the sweeper composes the jobs

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int, schedule: Any = None
    ) -> Sequence[JobReturn]:
        from src.sweeps.launchers.launch import launch

        jobs = [list(overrides) for overrides in job_overrides]
        if self.sweep.is_preview:
            from src.sweeps.preview.show import show_sweep

            show_sweep(self.sweep, self.make_engine(), jobs, schedule)
            sys.exit()  # without the callbacks at a sweep's end
        return launch(self.sweep, self.make_engine(), jobs, schedule)

    @abstractmethod
    def make_engine(self) -> Any:
        """Return the engine that runs the jobs, an `Engine` of `src.sweeps.launchers.launch`."""


class LocalLauncher(SweepLauncher):
    """Launcher that runs a sweep's jobs on this machine; settings: `src.sweeps.launchers.local.LocalEngine`."""

    def make_engine(self) -> Any:
        from src.sweeps.launchers.local import LocalEngine, check

        check(self.settings)
        return LocalEngine(**self.settings)


class VectorizedLauncher(SweepLauncher):
    """Launcher that trains jobs as one model; settings: `src.sweeps.launchers.local.LocalEngine`, and ``most``."""

    def make_engine(self) -> Any:
        from src.sweeps.launchers.local import LocalEngine
        from src.sweeps.launchers.vectorized import VectorizedEngine, check

        check(self.settings)
        if (job := self.sweep.config.hydra.job).chdir or job.env_set:
            how = "its jobs share a process; leave them out, or use another launcher"
            raise InputError(
                f"hydra.job.chdir and hydra.job.env_set cannot be used with hydra/launcher=vectorized: {how}"
            )
        own = dict(self.settings)
        return VectorizedEngine(most=own.pop("most"), local=LocalEngine(**own))


class RayLauncher(SweepLauncher):
    """Launcher that runs a sweep's jobs on a Ray cluster; settings: `src.sweeps.launchers.ray.RayEngine`."""

    def make_engine(self) -> Any:
        from src.core.extras import require_package

        require_package("ray", "ray", "hydra/launcher=ray")
        from src.sweeps.launchers.ray import RayEngine, check

        check(self.settings)
        return RayEngine(**self.settings)


class SlurmLauncher(SweepLauncher):
    """Launcher that runs a sweep's jobs on a Slurm cluster; settings: `src.sweeps.launchers.slurm.SlurmEngine`."""

    def make_engine(self) -> Any:
        from src.core.extras import require_package

        require_package("submitit", "slurm", "hydra/launcher=slurm")
        from src.sweeps.launchers.slurm import SlurmEngine, check

        check(self.settings)
        return SlurmEngine(**self.settings)


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, with one job per combination, except that ``multirun.yaml`` is flushed to the disk.

    This project's launchers write that file themselves, after they have locked the sweep's folder: a start that they
    refuse leaves the old file unchanged.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        assert self.config is not None
        assert self.launcher is not None
        jobs = self.list_jobs(arguments)
        if not isinstance(self.launcher, SweepLauncher):
            write_text(Path(self.config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(self.config))
        returned: list[Sequence[JobReturn]] = []
        size = None if self.config.get("preview") else self.max_batch_size  # a preview is about all batches
        for batch in self.split_overrides_to_chunks(jobs, size):
            self.validate_batch_is_legal(batch)
            returned.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returned))))
            for each in returned[-1]:
                _ = each.return_value  # raises the error of a job that failed
        return returned

    def list_jobs(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of each job, from those of the command line and the preset's."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return _list_jobs(*(parser.parse_overrides(each) for each in (self._parse_config(), arguments)))


class HalvingSweeper(GridSweeper):
    """The grid's jobs by successive halving; its own settings are those of `src.sweeps.search.rungs.plan_rungs`."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.settings = settings

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from src.sweeps.search.halving import Halving

        if not isinstance(self.launcher, SweepLauncher):
            raise InputError("hydra/sweeper=halving needs hydra/launcher=local, vectorized, ray or slurm")
        jobs = self.list_jobs(arguments)
        self.validate_batch_is_legal(jobs)
        return [self.launcher.launch(jobs, 0, Halving(self.settings))]


def _list_jobs(preset: list[Override], typed: list[Override]) -> list[list[str]]:
    """Return the overrides of each job: every combination of the given values and of the preset's other axes.

    A setting may be given several dictionaries, which Hydra merges: each of them is an axis here.
    """
    by_key: dict[str, list[list[str]]] = {}
    for overrides in (preset, typed):
        axes: dict[str, list[list[str]]] = {}
        for override in overrides:
            axes.setdefault(override.get_key_element(), []).append(_list_values(override))
        by_key |= axes  # a given axis replaces the preset's
    return [list(job) for job in product(*chain.from_iterable(by_key.values()))]


def _list_values(override: Override) -> list[str]:
    """Return one override for each value of a sweep override, or the override itself.

    Raises:
        HydraException: if the sweep is not a finite list of values.
        InputError: if the list is empty.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(
            f"{override.input_line} is not a finite list of values: use hydra/sweeper=optuna, or give values"
        )
    if not (values := list(override.sweep_string_iterator())):
        raise InputError(describe_unknown_choice(override.key_or_group, str(override.input_line).partition("=")[2]))
    return [f"{key}={value}" for value in values]


# Registered under the name of Hydra's own default sweeper, which it replaces.
GRID = BasicSweeperConf(_target_="hydra_plugins.thunderhead.GridSweeper")
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=GRID, provider="thunderhead")


class OptunaSweeper(Sweeper):
    """Sweeper that searches settings with Optuna; its own settings are those of `src.sweeps.search.plan.SearchPlan`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.core.extras import require_package

        require_package("optuna", "optuna", "hydra/sweeper=optuna")
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(self.launcher, SweepLauncher):
            raise InputError("hydra/sweeper=optuna needs hydra/launcher=local, vectorized, ray or slurm")

    def sweep(self, arguments: list[str]) -> None:
        from src.sweeps.search.run import run_search

        run_search(self.launcher, arguments, self.settings)
