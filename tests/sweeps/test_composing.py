"""The loader that remembers composes what Hydra's own does."""

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from src.cli.names import register_resolvers
from src.core.places import CONF
from src.sweeps.launchers.compose import CachingConfigLoader

VALUES = [
    ["sweep=xor", "model.hidden_size=1", "seed=0", "optimizer.weight_decay=${optimizer.lr}"],
    ["sweep=xor", "model.hidden_size=[2,3]", "seed=null", "optimizer.weight_decay=0.5"],
    ["sweep=xor", "model.hidden_size=4", "seed=7", "optimizer.weight_decay=${recipe.missing}"],
]
CHOICES = [
    ["data=mnist", "model=mlp", "+callbacks.x={_target_: a.b, n: 1}", "model.dropout=0", "~callbacks.samples"],
    ["data=mnist", "model=cnn", "+callbacks.x={_target_: a.b, n: 1}", "model.dropout=0.5", "~callbacks.samples"],
    ["data=mnist", "model=cnn", "+callbacks.x={_target_: a.b, n: 2}", "model.dropout=0.5", "~callbacks.samples"],
    ["data=xor", "model=cnn", "+model.of_its_own=2", "model.dropout=0.25"],
    ["data=xor", "model=cnn", "++model.of_its_own=3", "model.dropout=0.25", "hydra.job.name=other"],
    ["data=xor", "model=cnn", "trainer={max_epochs: 3}", "trainer.max_steps=4"],
    ["data=xor", "model=cnn", "trainer.max_steps=5", "trainer={max_epochs: 7, max_steps: 9}"],
]


@pytest.mark.parametrize("jobs", [VALUES, CHOICES], ids=["values", "choices"])
def test_composition_matches_hydra(jobs: list[list[str]]) -> None:
    """Each job's config equals the one that Hydra's own loader composes."""
    register_resolvers()
    GlobalHydra.instance().clear()
    search_path = create_config_search_path(f"file://{CONF}")
    hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
    sweep = hydra.compose_config("train", jobs[0][:1], run_mode=RunMode.MULTIRUN)
    remembering = CachingConfigLoader(hydra.config_loader)
    for _ in range(2):  # the second time all of it is remembered
        for overrides in jobs:
            theirs = hydra.config_loader.load_sweep_config(sweep, overrides)
            ours = remembering.compose(sweep, overrides)
            assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs)
            assert OmegaConf.is_struct(ours) and OmegaConf.is_struct(ours.hydra) == OmegaConf.is_struct(theirs.hydra)
