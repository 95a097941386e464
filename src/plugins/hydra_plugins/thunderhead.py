"""What Hydra finds as its plugins; it asks that their classes be defined in a package of this name."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SweepLauncher(Launcher):
    """Plans a sweep over what its folder has already, and has an engine run what is left.

    All that is heavy is imported where a sweep begins, since Hydra imports this module always.

    Args:
        settings: the engine's.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.sweeps.composing import RememberingLoader
        from src.sweeps.sweep import Sweep

        loader: Any = RememberingLoader(hydra_context.config_loader)
        hydra_context.config_loader = loader  # the sweeper's, too
        self.sweep = Sweep(config, hydra_context, task_function.__name__)
        if not list(self.sweep.folder.glob("*/job.json")):  # else there may be nothing left to do
            self.engine().warm_up()  # while the sweeper composes the jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from src.sweeps.launching import launch

        return launch(self.sweep, self.engine(), [list(overrides) for overrides in job_overrides])

    @abstractmethod
    def engine(self) -> Any:
        """What runs the jobs: an `Engine` of `src.sweeps.launching`."""


class LocalLauncher(SweepLauncher):
    """Runs a sweep's jobs on this machine; its settings are those of `src.sweeps.local.Local`."""

    def engine(self) -> Any:
        from src.sweeps.local import Local, check

        check(self.settings)
        return Local(**self.settings)


class VectorizedLauncher(SweepLauncher):
    """Trains a sweep's jobs as one model; its settings are those of `src.sweeps.local.Local`, and ``most``."""

    def engine(self) -> Any:
        from src.sweeps.local import Local
        from src.sweeps.vectorized import Vectorized, check

        check(self.settings)
        own = dict(self.settings)
        return Vectorized(most=own.pop("most"), local=Local(**own))


class RayLauncher(SweepLauncher):
    """Runs a sweep's jobs on a Ray cluster; its settings are those of `src.sweeps.ray_cluster.Ray`."""

    def engine(self) -> Any:
        from src.extras import need

        need("ray", "ray", "hydra/launcher=ray")
        from src.sweeps.ray_cluster import Ray, check

        check(self.settings)
        return Ray(**self.settings)


class SlurmLauncher(SweepLauncher):
    """Runs a sweep's jobs on a Slurm cluster; its settings are those of `src.sweeps.slurm.Slurm`."""

    def engine(self) -> Any:
        from src.extras import need

        need("submitit", "slurm", "hydra/launcher=slurm")
        from src.sweeps.slurm import Slurm, check

        check(self.settings)
        return Slurm(**self.settings)


class OptunaSweeper(Sweeper):
    """Searches settings with Optuna; its own settings are those of `src.sweeps.search_plan.Plan`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from src.extras import need

        need("optuna", "optuna", "hydra/sweeper=optuna")
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(self.launcher, SweepLauncher):
            from src.errors import InputError

            raise InputError("hydra/sweeper=optuna needs hydra/launcher=local, vectorized, ray or slurm")

    def sweep(self, arguments: list[str]) -> None:
        from src.sweeps.search import search

        search(self.launcher, arguments, self.settings)
