"""Paths and names as they are typed, settings given twice, settings of Hydra's: honoured, or refused in one line."""

import os
from pathlib import Path

import pytest

from src.cli.overrides import prepare_arguments
from src.core.errors import InputError
from src.core.places import cut_to_bytes, resolve_data_dir, to_slug
from tests.command_line import BARE, Outcome, read_json, run, train, train_bare

QUICK = (*BARE, "trainer.max_epochs=1")


def run_sweep(*arguments: str, cwd: Path) -> Outcome:
    return run("src.train", "-m", *QUICK, *arguments, cwd=cwd)


def list_jobs(cwd: Path, pattern: str = "outputs/sweeps/*/*") -> list[str]:
    return sorted(path.parent.name for path in cwd.glob(f"{pattern}/metrics.json"))


def read_log(folder: Path) -> str:
    return (folder / "train.log").read_text()


# Names and paths


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("name=a b", "name='a b'"),
        ("name=a (b=[1])", "name='a (b=[1])'"),
        ("name=実験", "name='実験'"),
        ("name=~", "name='~'"),
        ("paths.outputs=o, =[1] b", "paths.outputs='o, =[1] b'"),
        ("paths.data=~/x,y z", "paths.data='/home/me/x','y z'"),
        ("+data.root=~/x", "+data.root='/home/me/x'"),
        ("model.weights=IMAGENET1K_V1,null,a=b", "model.weights=IMAGENET1K_V1,null,'a=b'"),
        ("ckpt_path=choice(a,b)", "ckpt_path=choice(a,b)"),
        ("ckpt_path='a,b'", "ckpt_path='a,b'"),
        ("hydra.sweep.dir=~/a b", "hydra.sweep.dir='/home/me/a b'"),
        ("optimizer.lr=1,2", "optimizer.lr=1,2"),
    ],
)
def test_names_and_paths_are_quoted_as_text(typed: str, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sweep, too, a name or path with special characters is text."""
    monkeypatch.setenv("HOME", "/home/me")
    assert prepare_arguments([typed, "-m"]) == ["-m", read]


def test_existing_path_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sweep, a path with a comma is one value if it exists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert prepare_arguments(["-m", "paths.data=a,b"]) == ["-m", "paths.data='a,b'"]
    assert prepare_arguments(["-m", "paths.data=a,c"]) == ["-m", "paths.data=a,c"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("実験 1", "実験-1"),
        ("हिन्दी", "हिन्दी"),
        ("E\u0301te\u0301", "Été"),
        ("1e+30", "1e+30"),
        ("-1", "-1"),
        ("[4, 4]", "4-4"),
        ("a/b:c", "a-b-c"),
    ],
)
def test_slug_keeps_letters_of_all_scripts(text: str, part: str) -> None:
    """The signs of numbers are kept, too."""
    assert to_slug(text) == part


def test_long_names_are_limited_in_bytes(tmp_path: Path) -> None:
    """A long name is refused; the name of a job's folder is cut between two letters."""
    told = "it names a folder, so give it at most 200 bytes (a letter takes up to four)"
    assert told in run("src.train", *QUICK, f"name={'験' * 70}", cwd=tmp_path).error
    assert not (tmp_path / "outputs").exists()
    assert cut_to_bytes("験" * 3, 8) == "験験"


def test_home_folder_is_expanded_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "conf" / "experiment").mkdir(parents=True)
    (home / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\npaths: {outputs: ~/of preset}\n")
    monkeypatch.setenv("HOME", str(home))
    train_bare("trainer.max_epochs=1", "paths.outputs=~/o", "name=実験 a", cwd=tmp_path)
    best = "~/o/runs/実験-a/checkpoints/best.ckpt"
    train_bare("trainer.max_epochs=1", f"ckpt_path={best}", "hydra.run.dir=~/r", cwd=tmp_path)
    train("trainer.max_epochs=2", "resume=~/r", cwd=tmp_path)
    assert read_json(home / "r" / "metrics.json")["epochs"] == 2
    assert run("src.eval", "run=~/r", cwd=tmp_path).code == 0
    own = (f"hydra.searchpath=[{home / 'conf'}]", "experiment=mine", "name=two words")
    assert run_sweep(*own, "seed=1,2", cwd=tmp_path).code == 0
    assert list_jobs(home, "of preset/sweeps/two-words/*") == ["0_seed-1", "1_seed-2"]
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(("value", "folder"), [("", None), ("~/sets", "/home/me/sets")])
def test_data_dir_variable_is_resolved(value: str, folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA_DIR", value)
    resolve_data_dir()
    assert os.environ.get("DATA_DIR") == folder


# Given twice


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["optimizer.lr=1", "optimizer.lr=2"], "optimizer.lr"),
        (["+a=1", "++a=2"], "a"),
        (["~model.dropout", "+model.dropout=1"], "model.dropout"),
        (["data=xor", "data=gate"], "data"),
        (["model={dropout:0.1,hidden_size:3}", "model.dropout=0.2"], "model.dropout"),
        (["model={dropout:0},{dropout:0.1}", "model={dropout:0.2},{dropout:0.3}"], "model.dropout"),
    ],
)
def test_setting_given_twice_is_refused(arguments: list[str], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is given twice, .*: give it once$"):
        prepare_arguments(arguments)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("data=5", "data=5"),
        ("data=null", "data=null"),
        ("data=[xor,5]", "data=[xor,5]"),
        ("data=range(3)", "data=range(3)"),
        ("data=xor,5", "data=5"),
        ("data=null,xor", "data=null"),
        ("logger=none,[csv,5]", "logger=[csv,5]"),
        ("model=choice(mlp,[1.5])", "model=[1.5]"),
        ("hydra/launcher=[5]", "hydra/launcher=[5]"),
    ],
)
def test_choice_must_be_a_name(argument: str, shown: str) -> None:
    with pytest.raises(InputError) as refused:
        prepare_arguments(["-m", argument])
    assert str(refused.value).startswith(f"{shown}: there is no such choice; {shown.partition('=')[0]} is one of ")


def test_unknown_setting_in_dictionary_is_named(tmp_path: Path) -> None:
    assert "there is no setting data.batch_sizes, did you mean data.batch_size?" in run(
        "src.train", "data={batch_sizes:1}", cwd=tmp_path
    ).error.replace("error: ", "")


def test_valid_choices_are_accepted() -> None:
    """Choices may be names, quoted names, lists of names and patterns."""
    arguments = ["-m", "data=xor,'gate'", "logger=[tensorboard,csv],none", "model=glob(m*)", "~experiment"]
    assert prepare_arguments(arguments) == arguments


def test_long_arguments_are_abbreviated_in_errors() -> None:
    with pytest.raises(InputError) as refused:
        prepare_arguments([f"paths.data={6000 * 'a'}", "paths.data=b"])
    assert len(str(refused.value)) < 300


def test_long_hydra_choice_is_abbreviated_in_error(tmp_path: Path) -> None:
    """The choice is too long for the name of a file."""
    assert len(run("src.train", f"hydra/job_logging={5000 * 'a'}", cwd=tmp_path).error) < 1300


def test_compatible_overrides_may_be_combined() -> None:
    """The same override may occur twice, and dictionaries may give different settings of a group."""
    for arguments in (["seed=1", "seed=1"], ["model=mlp", "model={dropout:0.1}", "model={hidden_size:3}"]):
        assert prepare_arguments(arguments) == arguments


def test_dictionary_axes_of_group_are_combined(tmp_path: Path) -> None:
    """Two axes of two dictionaries for one group are four jobs."""
    axes = ("model={dropout:0},{dropout:0.5}", "model={hidden_size:3},{hidden_size:4}", "optimizer=sgd")
    assert run_sweep(*axes, "optimizer={lr:0.25}", "name=four", cwd=tmp_path).code == 0
    settings = [read_json(path)["settings"] for path in sorted(tmp_path.glob("outputs/sweeps/four/*/job.json"))]
    values = [(each["model.dropout"], each["model.hidden_size"]) for each in settings]
    assert values == [(0, 3), (0, 4), (0.5, 3), (0.5, 4)]
    assert {(each["optimizer._target_"], each["optimizer.lr"]) for each in settings} == {("torch.optim.SGD", 0.25)}


# Mistyped commands


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimizer.lr=-1",),
        ("model=cnn", "name=mine"),
        ("ckpt_path=nowhere",),
        ("experiment=[xor,wheat]",),
        ("-m", "optimizer.lr=-1", "seed=1,2"),
        ("-m", "hydra.launcher.jobs=x", "seed=1,2"),
        ("-m", "data=gate,xor", "data.gate=xor"),
        ("-m", "hydra/sweeper=optuna", "model.dropout=3", "optimizer.lr=interval(0.1,0.2)"),
        ("-m", "optimizer.lr=interval(0.1,0.2)"),
        ("-m", "data=glob(zz*)"),
        ("-m", "hydra/sweeper=optuna", "data=glob(zz*)", "optimizer.lr=interval(0.1,0.2)"),
        ("optimizer._target_=torch.optim.Adagrad",),
        ("optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"),
        ("+callbacks.x={_target_:lightning.pytorch.callbacks.Timer,duration:soon}",),
        ("+callbacks.x={_target_:lightning.pytorch.callbacks.DeviceStatsMonitor,cpu_stats:false}",),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.RichProgressBar",),
    ],
)
def test_refused_command_creates_no_folder(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert run("src.train", *QUICK, *arguments, cwd=tmp_path).error
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_survives_refused_start(tmp_path: Path) -> None:
    """A later start can claim the folder."""
    assert run("src.train", *QUICK, "hydra.run.dir=.", "optimizer.lr=-1", cwd=tmp_path).error
    assert list(tmp_path.iterdir()) == []
    assert run("src.train", *QUICK, "hydra.run.dir=.", cwd=tmp_path).code == 0
    error = run("src.train", *QUICK, "hydra.run.dir=.", cwd=tmp_path).error
    assert ". already exists: choose another hydra.run.dir=…, or resume it: resume=." in error
    assert read_json(tmp_path / "metrics.json")["epochs"] == 1


def test_refused_job_does_not_stop_others(tmp_path: Path) -> None:
    assert run_sweep("optimizer.lr=-1,1", "name=some", cwd=tmp_path).code == 1
    assert list_jobs(tmp_path) == ["1_lr-1"]


# Settings of Hydra's


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("hydra.output_subdir=null",), "hydra.output_subdir=null: a run keeps its settings in .hydra"),
        (("~hydra.callbacks.claim_folder",), "it keeps a run from writing into another's folder"),
        (("hydra.runtime.output_dir=x",), "hydra.runtime.output_dir=x: Hydra sets it itself"),
        (("hydra.launcher.jobs=2",), "hydra.launcher.jobs=2 is for sweeps (-m, sweep=), and this is one run"),
        (("-m", "hydra.run.dir=x", "seed=1,2"), "is for a run: a sweep's folder is name=…, or hydra.sweep.dir=…"),
        (
            ("-m", "hydra.sweep.dir='x/${seed}'", "seed=1,2"),
            "a sweep has one folder, and seed varies; its jobs",
        ),
        (("-m", "hydra.sweep.dir='x/${data.batch_size}'", "data=xor,gate"), "one folder, and data.batch_size varies"),
        (("-m", "hydra.sweeper.params={seed:'1,2'}"), "type the settings themselves: -m NAME=VALUE,VALUE"),
        (("hydra.job.chdir=maybe",), "hydra.job.chdir=maybe does not fit (Value 'maybe' is not a valid bool"),
        (("-m", "hydra.sweep.subdir=x", "seed=1,2"), "begins with its number: '${hydra.job.num}_…'"),
        (("-m", "hydra.sweep.subdir=${hydra.job.num}/x", "seed=1,2"), "a job's folder lies in its sweep's"),
        (("-m", "hydra/launcher=vectorized", "hydra.job.chdir=true", "seed=1,2"), "its jobs share a process"),
        (("experiment=[xor,wheat]", "callbacks=none"), "experiment=xor is for data=xor, optimizer=sgd and"),
        (("sweep=[xor,pulse]",), "sweep=… is one preset: give it one value"),
    ],
)
def test_ignored_hydra_settings_are_refused(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """Settings that Hydra would ignore or that would break a run or a sweep are refused."""
    assert told in run("src.train", *arguments, cwd=tmp_path).error
    assert list(tmp_path.iterdir()) == []


def test_job_folders_follow_hydra_settings(tmp_path: Path) -> None:
    own = ("hydra.sweep.subdir='${hydra.job.num}_lr=${optimizer.lr}'", "hydra.sweep.dir=a/b", "optimizer.lr=0.1,-1")
    outcome = run_sweep(*own, cwd=tmp_path)
    assert outcome.error.endswith("hydra.sweep.dir=a/b") and "name=" not in outcome.error
    assert list_jobs(tmp_path, "a/b/*") == ["0_lr-0.1"]


@pytest.mark.parametrize("logging", ["disabled", "none", "stdout", "default"])
def test_hydra_job_logging_works_in_sweep(logging: str, tmp_path: Path) -> None:
    assert run_sweep(f"hydra/job_logging={logging}", "seed=1", "name=logged", cwd=tmp_path).code == 0
    told = "best epoch 1" in read_log(tmp_path / "outputs/sweeps/logged/0")
    assert told == (logging in ("stdout", "default"))


def test_relative_paths_ignore_chdir(tmp_path: Path) -> None:
    """With hydra.job.chdir=true, relative paths still start from the folder of the command."""
    there = ("hydra.job.chdir=true", "name=there")
    folder = train_bare(*there, "trainer.max_epochs=1", cwd=tmp_path).folder
    best = "ckpt_path=outputs/runs/there/checkpoints/best.ckpt"
    train_bare("hydra.job.chdir=true", best, "paths.outputs=more", "name=a", "trainer.max_epochs=1", cwd=tmp_path)
    assert run_sweep("hydra.job.chdir=true", best, "paths.outputs=more", "name=b", "seed=1,2", cwd=tmp_path).code == 0
    train("hydra.job.chdir=true", "resume=outputs/runs/there", "trainer.max_epochs=2", cwd=tmp_path)
    assert read_json(folder / "metrics.json")["epochs"] == 2
    assert list_jobs(tmp_path, "more/*/*") == ["a"] and list_jobs(tmp_path, "more/sweeps/b/*") == [
        "0_seed-1",
        "1_seed-2",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "more"}
