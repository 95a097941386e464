"""What Hydra finds as its plugins; it asks that their classes be defined in a package of this name."""

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

from src.cli.messages import unknown_choice
from src.core.errors import InputError
from src.storage.files import write_text


class SweepLauncher(Launcher):
    """Plans a sweep over what its folder has already, and has an engine run what is left.

    All that is heavy is imported where a sweep begins, since Hydra imports this module always.

    Args:
        settings: the engine's.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.launchers.compose import RememberingLoader
        from src.sweeps.launchers.sweep import Sweep

        loader: Any = RememberingLoader(hydra_context.config_loader)
        hydra_context.config_loader = loader  # the sweeper's, too
        self.sweep = Sweep(config, hydra_context, task_function.__name__)
        if not list(self.sweep.folder.glob("*/job.json")):  # else there may be nothing left to do
            self.engine().warm_up()  # while the sweeper composes the jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from src.sweeps.launchers.launch import launch

        return launch(self.sweep, self.engine(), [list(overrides) for overrides in job_overrides])

    @abstractmethod
    def engine(self) -> Any:
        """What runs the jobs: an `Engine` of `src.sweeps.launchers.launch`."""


class LocalLauncher(SweepLauncher):
    """Runs a sweep's jobs on this machine; its settings are those of `src.sweeps.launchers.local.Local`."""

    def engine(self) -> Any:
        from src.sweeps.launchers.local import Local, check

        check(self.settings)
        return Local(**self.settings)


class VectorizedLauncher(SweepLauncher):
    """Trains a sweep's jobs as one model; its settings: `src.sweeps.launchers.local.Local`, and ``most``."""

    def engine(self) -> Any:
        from src.sweeps.launchers.local import Local
        from src.sweeps.launchers.vectorized import Vectorized, check

        check(self.settings)
        if (job := self.sweep.config.hydra.job).chdir or job.env_set:
            how = "its jobs share a process; leave them out, or take another launcher"
            raise InputError(f"hydra.job.chdir and hydra.job.env_set do not go with hydra/launcher=vectorized: {how}")
        own = dict(self.settings)
        return Vectorized(most=own.pop("most"), local=Local(**own))


class RayLauncher(SweepLauncher):
    """Runs a sweep's jobs on a Ray cluster; its settings are those of `src.sweeps.launchers.ray.Ray`."""

    def engine(self) -> Any:
        from src.core.extras import need

        need("ray", "ray", "hydra/launcher=ray")
        from src.sweeps.launchers.ray import Ray, check

        check(self.settings)
        return Ray(**self.settings)


class SlurmLauncher(SweepLauncher):
    """Runs a sweep's jobs on a Slurm cluster; its settings are those of `src.sweeps.launchers.slurm.Slurm`."""

    def engine(self) -> Any:
        from src.core.extras import need

        need("submitit", "slurm", "hydra/launcher=slurm")
        from src.sweeps.launchers.slurm import Slurm, check

        check(self.settings)
        return Slurm(**self.settings)


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, every combination a job; but the sweep's ``multirun.yaml`` is written durably.

    Launchers of ours write it, once the sweep's folder is theirs: a start that they refuse leaves it as it was.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        preset, given = (parser.parse_overrides(each) for each in (self._parse_config(), arguments))
        if not isinstance(self.launcher, SweepLauncher):
            write_text(Path(self.config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(self.config))
        returned: list[Sequence[JobReturn]] = []
        jobs = list_jobs(preset, given)
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size):
            self.validate_batch_is_legal(batch)
            returned.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returned))))
            for each in returned[-1]:
                _ = each.return_value  # raises the error of a job that failed
        return returned


def list_jobs(preset: list[Override], given: list[Override]) -> list[list[str]]:
    """Return the overrides of each job: every combination of the values that are given, and of a preset's other axes.

    A setting may be given several dictionaries, which are merged; its values here are those of each of them.
    """
    by_key: dict[str, list[list[str]]] = {}
    for overrides in (preset, given):
        own: dict[str, list[list[str]]] = {}
        for each in overrides:
            own.setdefault(each.get_key_element(), []).append(list_values(each))
        by_key |= own
    return [list(job) for job in product(*chain.from_iterable(by_key.values()))]


def list_values(override: Override) -> list[str]:
    """Return an override for each of its values.

    Raises:
        HydraException: if it is no list of values.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line} has no end: hydra/sweeper=optuna takes it, else give values")
    if not (values := list(override.sweep_string_iterator())):
        raise InputError(unknown_choice(override.key_or_group, str(override.input_line).partition("=")[2]))
    return [f"{key}={value}" for value in values]


GRID = BasicSweeperConf(_target_="hydra_plugins.thunderhead.GridSweeper")
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=GRID, provider="thunderhead")  # in its place


class OptunaSweeper(Sweeper):
    """Searches settings with Optuna; its own settings are those of `src.sweeps.search.plan.Plan`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.core.extras import need

        need("optuna", "optuna", "hydra/sweeper=optuna")
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(self.launcher, SweepLauncher):
            raise InputError("hydra/sweeper=optuna needs hydra/launcher=local, vectorized, ray or slurm")

    def sweep(self, arguments: list[str]) -> None:
        from src.sweeps.search.optimize import search

        search(self.launcher, arguments, self.settings)
