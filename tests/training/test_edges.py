"""Settings at the edge of what makes sense, through the command line."""

from pathlib import Path

import pytest

from tests.command_line import BARE, load_checkpoint, read_json, run, run_folders, train_bare


@pytest.mark.parametrize("settings", [("data.batch_size=1",), ("data.batch_size=33",)])
def test_batch_norm_refuses_single_sample_batch(settings: tuple[str, ...], tmp_path: Path) -> None:
    error = run("src.train", "model.batch_norm=true", *settings, *BARE, cwd=tmp_path).error
    assert "batch norm needs two samples" in error
    assert "data.drop_last=true" in error


def test_drop_last_removes_single_sample_batch(tmp_path: Path) -> None:
    """With data.drop_last=true a last batch of one sample is dropped, and batch norm works."""
    settings = ("model.batch_norm=true", "data.batch_size=33", "data.drop_last=true", "trainer.max_epochs=2")
    folder = train_bare(*settings, cwd=tmp_path).folder
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 2 * 3


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("data.batch_size=1000", "data.drop_last=true"), ": there are 100 samples, and data.drop_last=true drops"),
        (("trainer.limit_train_batches=0",), ""),
    ],
)
def test_a_run_without_a_batch_is_refused(settings: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    assert f"there is no batch to train on{reason}" in run("src.train", *settings, *BARE, cwd=tmp_path).error


@pytest.mark.parametrize("settings", [("data=xor",), ("data=mnist", "data.val_size=40", "data.verify=false")])
def test_double_precision_trains_and_draws(settings: tuple[str, ...], data_dir: Path, tmp_path: Path) -> None:
    more = ("trainer.precision=64-true", "trainer.max_epochs=1", f"paths.data={data_dir}")
    outcome = run("src.train", *settings, *more, cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    state = load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert {str(value.dtype) for value in state.values()} == {"torch.float64"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("optimizer.betas=[2,3]", "optimizer.betas=[2, 3] must be a list of two numbers from 0 to below 1"),
        ("+optimizer.nonsense=1", "nonsense"),
        (
            "scheduler=cosine +scheduler.nonsense=1",
            "scheduler.nonsense: torch.optim.lr_scheduler.CosineAnnealingLR has no such setting",
        ),
        ("+scheduler.nonsense=1", "scheduler.nonsense: no scheduler is chosen"),
    ],
)
def test_optimizer_or_scheduler_error_is_one_line(settings: str, words: str, tmp_path: Path) -> None:
    """A setting that an optimizer or a scheduler refuses is reported in one line."""
    assert words in run("src.train", *settings.split(), *BARE, cwd=tmp_path).error


def test_sweep_flag_position_is_free(tmp_path: Path) -> None:
    """The flag -m may stand anywhere on the command line."""
    outcome = run("src.train", *BARE, "trainer.max_epochs=1", "-m", "seed=1,2", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert [folder.name for folder in outcome.folders] == ["0_seed-1", "1_seed-2"]


def test_deleted_group_is_named(tmp_path: Path) -> None:
    """A group that was deleted on the command line is named in the error."""
    assert "model is missing: it was deleted" in run("src.train", "~model", *BARE, cwd=tmp_path).error


def test_name_becomes_plain_folder_name(tmp_path: Path) -> None:
    """A name with spaces and commas becomes a folder name of plain characters."""
    outcome = train_bare("name=my run, no. 1", "trainer.max_epochs=1", cwd=tmp_path)
    assert outcome.folder.name == "my-run-no.-1"


def test_zero_is_a_valid_name(tmp_path: Path) -> None:
    assert train_bare("name=0", "trainer.max_epochs=1", cwd=tmp_path).folder.name == "0"


@pytest.mark.parametrize("name", [".", "..", "{}"])
def test_unusable_folder_name_is_refused(name: str, tmp_path: Path) -> None:
    """A name that cannot be the name of a folder is refused."""
    outcome = run("src.train", f"name='{name}'", *BARE, cwd=tmp_path)
    assert "it names a folder" in outcome.error
    assert not run_folders(tmp_path)


def test_odd_folder_name_resumes_and_evaluates(tmp_path: Path) -> None:
    """A run in a folder with spaces and commas can be resumed and evaluated."""
    folder = train_bare("name=a", "trainer.max_epochs=1", cwd=tmp_path).folder
    odd = folder.with_name("moved, and renamed")
    folder.rename(odd)
    assert run("src.train", f"resume={odd}", "trainer.max_epochs=2", cwd=tmp_path).code == 0
    assert run("src.eval", f"run={odd}", cwd=tmp_path).code == 0
    assert read_json(odd / "eval_val.json")["val/acc"] == read_json(odd / "metrics.json")["val/acc"]


def test_a_sweep_over_names_is_refused(tmp_path: Path) -> None:
    outcome = run("src.train", "-m", "name=x,y", *BARE, cwd=tmp_path)
    assert outcome.error.startswith("error: name=… names the sweep")
    assert not run_folders(tmp_path)


def test_missing_last_checkpoint_preserves_best(tmp_path: Path) -> None:
    """A run whose last checkpoint is missing is not resumed, and its best one is not overwritten."""
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    best = (folder / "checkpoints" / "best.ckpt").read_bytes()
    (folder / "checkpoints" / "last.ckpt").unlink()
    error = run("src.train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path).error
    assert "last.ckpt is missing" in error
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == best


def test_fewer_epochs_than_trained_are_refused(tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=3", cwd=tmp_path).folder
    assert "has 3 epochs already" in run("src.train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path).error


def test_early_stopped_run_suggests_more_patience(tmp_path: Path) -> None:
    """A run that stopped early suggests more patience, not a number of epochs."""
    settings = ("callbacks=early_stopping", "~callbacks.curves", "~callbacks.decision_regions", "logger=none")
    outcome = run("src.train", *settings, "callbacks.early_stopping.patience=1", "optimizer.lr=1e-6", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert "callbacks.early_stopping.patience=3" in outcome.out
    error = run("src.train", f"resume={outcome.folder}", cwd=tmp_path).error
    assert "is finished" in error
    assert "callbacks.early_stopping.patience=3" in error


@pytest.mark.parametrize("damage", ["", "{", "[1]"])
def test_damaged_records_do_not_stop_a_resume(damage: str, tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    for name in ("status.json", "provenance.json", "metrics.json"):
        (folder / name).write_text(damage)
    assert run("src.train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path).code == 0
    assert read_json(folder / "status.json")["status"] == "finished"
    assert read_json(folder / "metrics.json")["epochs"] == 2


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    config = folder / ".hydra" / "config.yaml"
    config.write_text("model: [")
    assert f"{config} is damaged" in run("src.eval", f"run={folder}", cwd=tmp_path).error
    config.write_text("")
    assert f"{config} is damaged" in run("src.eval", f"run={folder}", cwd=tmp_path).error


def test_resume_does_not_need_initial_weights(tmp_path: Path) -> None:
    """A resumed run no longer needs the checkpoint whose weights it started from."""
    first = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder / "checkpoints" / "last.ckpt"
    folder = train_bare("trainer.max_epochs=1", f"ckpt_path={first}", cwd=tmp_path).folder
    first.unlink()
    assert run("src.train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path).code == 0


def test_the_config_can_be_shown_resolved(tmp_path: Path) -> None:
    outcome = run("src.train", "--cfg", "job", "--resolve", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert "lr: 0.01" in outcome.out
    assert "max_epochs: 50" in outcome.out
