"""What a job that was trained with others leaves in its folder is what it would have left alone."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.models.mlp import MLP
from src.training.redraw import draw_figures
from tests.command_line import (
    evaluate,
    get_small_image_settings,
    read_history,
    read_json,
    read_weights,
    train,
    train_bare,
)
from tests.vectorized.both_ways import EXACT, load_checkpoint, make_job_settings, train_alone, train_together

SHARED = ["data=xor", "model.hidden_size=5", "model.dropout=0.2", "trainer.max_epochs=4", "scheduler=cosine"]
OWN = ("seed=0", "seed=1 optimizer.lr=0.1")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """The folders of two jobs, trained together and alone."""
    cwd = tmp_path_factory.mktemp("both")
    return train_together(cwd, make_job_settings(SHARED, *OWN)), train_alone(cwd, make_job_settings(SHARED, *OWN))


def test_config_equals_single_run(both: tuple[list[Path], list[Path]]) -> None:
    for mine, other in zip(*both, strict=True):
        configs = [OmegaConf.load(folder / ".hydra" / "config.yaml") for folder in (mine, other)]
        assert configs[0] == configs[1]
        assert OmegaConf.load(mine / ".hydra" / "overrides.yaml") == OmegaConf.load(other / ".hydra" / "overrides.yaml")


def test_loop_state_equals_single_run(both: tuple[list[Path], list[Path]]) -> None:
    """Lightning's loops in the checkpoint stand where those of a separate run do."""
    for mine, other in zip(*both, strict=True):
        loops, others = (load_checkpoint(folder)["loops"] for folder in (mine, other))
        assert loops.keys() == others.keys()
        assert loops["fit_loop"].keys() == others["fit_loop"].keys()
        for name in ("epoch_progress", "epoch_loop.state_dict"):
            assert loops["fit_loop"][name] == others["fit_loop"][name]
        assert load_checkpoint(mine)["callbacks"].keys() == load_checkpoint(other)["callbacks"].keys()
        assert load_checkpoint(mine)["hyper_parameters"] == load_checkpoint(other)["hyper_parameters"]


def test_stacked_job_is_evaluated_and_loaded(both: tuple[list[Path], list[Path]]) -> None:
    for mine in both[0]:
        evaluate(f"run={mine}", "split=test", cwd=mine)
        found, told = read_json(mine / "eval_test.json"), read_json(mine / "metrics.json")
        assert found["test/loss"] == pytest.approx(told["test/loss"], abs=1e-6)
        assert found["test/acc"] == told["test/acc"]
        model = MLP.load_from_checkpoint(mine / "checkpoints" / "best.ckpt")
        assert model.net.state_dict().keys() == {name.removeprefix("net.") for name in read_weights(mine, "best")}


def test_checkpoint_initialises_new_run(both: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    """A run that starts from a stacked job's checkpoint starts from its weights."""
    path = both[0][1] / "checkpoints" / "best.ckpt"
    still = train_bare(*SHARED[:2], *EXACT, f"ckpt_path={path}", "optimizer=sgd", "optimizer.lr=1e-30", cwd=tmp_path)
    torch.testing.assert_close(read_weights(still.folder), read_weights(both[0][1], "best"), rtol=0, atol=1e-15)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_stacked_job_resumes_like_single_run(optimizer: str, tmp_path: Path) -> None:
    """A stacked job resumes as if it had been trained alone."""
    shared = [*SHARED[:-1], f"optimizer={optimizer}"]
    mine, _ = train_together(tmp_path, make_job_settings(shared, "seed=1", "seed=2"))
    (other,) = train_alone(tmp_path, make_job_settings(shared, "seed=1 trainer.max_epochs=7"))
    train(f"resume={mine}", "trainer.max_epochs=7", cwd=tmp_path)
    assert len(read_history(mine)) == 7
    torch.testing.assert_close(
        read_weights(mine), read_weights(other), rtol=0, atol=1e-7
    )  # read in float32 when it goes on
    assert read_history(mine)[-1]["train/loss"] == pytest.approx(read_history(other)[-1]["train/loss"], abs=1e-6)


TWO_GROUPS = ["model=cnn", "model._target_=tests.vectorized.networks.TwoGroups", "model.channels=[2]"]


@pytest.mark.parametrize("schedule", ["exponential", "cosine"])
def test_events_equal_single_run(schedule: str, data_dir: Path, tmp_path: Path) -> None:
    """The TensorBoard events of a stacked job are those of a separate run."""
    shared = (
        [*TWO_GROUPS, "trainer.max_epochs=2", *get_small_image_settings("mnist", data_dir)]
        if schedule == "exponential"
        else SHARED
    )
    often = ["trainer.log_every_n_steps=4", "callbacks=default", "logger=tensorboard"]
    jobs = make_job_settings([*shared, f"scheduler={schedule}", *often], *OWN)
    for mine, other in zip(train_together(tmp_path, jobs), train_alone(tmp_path, jobs), strict=True):
        found, wanted = read_scalars(mine), read_scalars(other)
        assert found.keys() == wanted.keys()
        notes = ["not verified" in (folder / "train.log").read_text() for folder in (mine, other)]
        assert notes == [schedule == "exponential"] * 2  # files of one's own
        for tag in found.keys() - {"epoch"}:
            assert [step for step, _ in found[tag]] == [step for step, _ in wanted[tag]], tag
            assert [value for _, value in found[tag]] == pytest.approx([value for _, value in wanted[tag]], abs=1e-6)


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in a run's event files."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_provenance_and_log_mention_stack(both: tuple[list[Path], list[Path]]) -> None:
    for mine in both[0]:
        assert json.loads((mine / "provenance.json").read_text())["stack"]["jobs"] == 2
        assert "trained as one with 1 other job" in (mine / "train.log").read_text()


def test_figures_can_be_drawn_later(tmp_path: Path) -> None:
    mine, _ = train_together(tmp_path, make_job_settings(["trainer.max_epochs=2", "callbacks=default"], *OWN))
    assert not list(mine.glob("figures/*.png"))
    draw_figures(mine)
    names = {path.stem for path in mine.glob("figures/*.png")}
    assert names == {"curves", "decision_regions", "confusion_matrix"}
