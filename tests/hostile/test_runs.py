"""What else lies in a stranger's run: Hydra's settings, references, paths, links, pipes, YAML and checkpoints."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from src.storage.files import format_yaml
from src.storage.plain import read_yaml
from tests.command_line import get_small_image_settings, read_json, run, train_bare
from tests.hostile import CONFIG, EVAL, MARK, RESUME, RUN, SECRET, Bomb, edit_config, expect_refusal, list_files

# Hydra's own settings

HYDRA_SETTINGS: dict[str, Any] = {
    "hydra.job.env_set.PATH": "/nowhere",
    "hydra.job.env_set.LD_PRELOAD": "evil.so",
    "hydra.job.name": "../../../x",
    "hydra.run.dir": "../elsewhere",
    "hydra.searchpath": ["file://secret"],
    "hydra.callbacks.evil._target_": "canary.touch",
    "hydra.launcher._target_": "canary.touch",
    "hydra.sweeper._target_": "canary.touch",
    "hydra.mode": "MULTIRUN",
    "hydra.job_logging.handlers.evil": {"class": "logging.FileHandler", "filename": "written"},
    "hydra.output_subdir": "../../../x",
    "hydra": None,
    "defaults": [{"model": "mlp"}],
    "defaults.x": "y",
}


@pytest.mark.parametrize("name", HYDRA_SETTINGS)
def test_hydra_settings_in_folder_are_refused(name: str, cwd: Path) -> None:
    """Hydra's own settings in the config of a run's folder are refused."""
    edit_config(cwd, {name: HYDRA_SETTINGS[name]})
    assert f"config.yaml: {name.split('.')[0]} is for Hydra" in expect_refusal(cwd, *RESUME)
    if name == "hydra.job.env_set.PATH":
        assert "config.yaml: hydra is for Hydra" in expect_refusal(cwd, *EVAL)


def test_planted_hydra_configs_are_ignored(cwd: Path) -> None:
    """Where Hydra is pointed at a folder it takes headers, other main configs and groups from there."""
    path = cwd / CONFIG
    path.write_text(f"# @package hydra.job.env_set\n{path.read_text()}")
    evil = format_yaml({"hydra": {"job": {"env_set": {"EVIL": "1"}}, "callbacks": {"x": {"_target_": "canary.touch"}}}})
    for name in ("hydra", "overrides", "resumed", "train", "hydra/job_logging/thunderhead", "hydra/launcher/local"):
        planted = path.parent / f"{name}.yaml"
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(evil if "/" not in name else "handlers: {}\n_target_: canary.touch\n")
    outcome = run(*RESUME, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert read_json(cwd / RUN / "metrics.json")["epochs"] == 2
    assert "EVIL" not in os.environ and not (cwd / MARK).exists()
    assert "epoch 2/2" in (cwd / RUN / "train.log").read_text()  # the log is where conf/ has it


@pytest.mark.parametrize("flag", ["--config-path=x", "--config-name=x", "-cn=x", "--config-n=x"])
def test_resume_refuses_other_config(flag: str, cwd: Path) -> None:
    """A resumed run refuses `--config-path` and `--config-name`."""
    assert "leave out --config-path and --config-name" in expect_refusal(cwd, *RESUME, flag)


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--exp"])
def test_hydra_rerun_pickle_is_refused(flag: str, cwd: Path) -> None:
    """Hydra's `--experimental-rerun`, which reads a pickle, is refused."""
    assert "reads a pickle" in expect_refusal(cwd, "src.train", f"{flag}=bomb.pt")


# References

REFERENCES = ["${oc.env:MY_TOKEN}", "a ${oc.env:MY_TOKEN,b}", "${now:%Y}", "${hydra:runtime.cwd}", "${oc.decode:'1'}"]


@pytest.mark.parametrize("reference", REFERENCES)
def test_external_references_are_not_resolved(reference: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """References to the environment or to other resolvers are not resolved."""
    monkeypatch.setenv("MY_TOKEN", SECRET)
    edit_config(cwd, {"model.activation": reference, "name": reference})
    for command in (EVAL, RESUME) if reference == REFERENCES[0] else (RESUME,):
        error = expect_refusal(cwd, *command)
        assert f"model.activation: {reference} is not resolved" in error and "give model.activation=…" in error
        assert SECRET not in error


def test_override_replaces_unresolved_reference(cwd: Path) -> None:
    """A setting whose reference is not resolved can be given on the command line."""
    edit_config(cwd, {"model.activation": "${oc.env:MY_TOKEN}"})
    outcome = run(*RESUME, "model.activation=relu", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert read_yaml(cwd / CONFIG)["model"]["activation"] == "relu"


# Paths

OUTSIDE_PATHS: dict[str, Any] = {
    "callbacks.timer": {"_target_": "lightning.pytorch.callbacks.Timer", "interval": "/etc"},
    "callbacks.more": {"_target_": "src.callbacks.figures.learning_curves.Curves", "dirpath": "here"},
    "callbacks.list": {"_target_": "src.callbacks.figures.learning_curves.Curves", "names": [["a", "../b"]]},
    "logger.csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../../other"},
    "logger.csv.version": "/tmp",
    "logger.csv.save_dir": "~/x",
    "logger.csv.prefix": "s3://bucket/x",
    "logger.csv.root": "C:/x",
    "trainer.profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "filename": "a/../../b"},
    "trainer.default_root_dir": "x",
}


@pytest.mark.parametrize("name", OUTSIDE_PATHS)
def test_folder_cannot_redirect_output(name: str, cwd: Path) -> None:
    """A folder's config cannot name paths outside the folder to write to."""
    csv = {"logger.csv._target_": "lightning.pytorch.loggers.CSVLogger"} if name.startswith("logger.csv.") else {}
    edit_config(cwd, {**csv, name: OUTSIDE_PATHS[name]})
    error = expect_refusal(cwd, *RESUME)
    assert f"config.yaml: {name}" in error and "must not name paths outside it" in error


@pytest.mark.parametrize("name", ["ckpt_path", "model.weights"])
def test_folder_cannot_name_starting_weights(name: str, cwd: Path) -> None:
    """A run without checkpoints does not start from a file that its folder names."""
    edit_config(cwd, {name: "secret/file"})
    shutil.rmtree(cwd / RUN / "checkpoints")
    assert f"starts over from {name}=secret/file" in expect_refusal(cwd, *RESUME)


def test_saved_data_path_is_only_read(cwd: Path, data_dir: Path) -> None:
    """Data are read from the path in a folder's config, and nothing is written there."""
    train_bare(*get_small_image_settings("mnist", data_dir), "trainer.max_epochs=1", "name=mnist", cwd=cwd)
    command, config = ("src.eval", "run=outputs/runs/mnist"), "outputs/runs/mnist/.hydra/config.yaml"
    assert read_yaml(cwd / config)["paths"]["data"] == str(data_dir)
    assert run(*command, cwd=cwd).code == 0
    for settings in ({"paths.data": "secret", "paths.outputs": "/etc"}, {"data.root": "secret"}):
        edit_config(cwd, {"data.verify": True, **settings}, config)
        error = expect_refusal(cwd, *command)
        assert "MNIST is not in secret" in error and "saved config: give paths.data=FOLDER" in error
    edit_config(cwd, {"data.verify": False, "paths.data": "${oc.env:HOME}"}, config)
    assert run(*command, f"paths.data={data_dir}", cwd=cwd).code == 0
    edit_config(cwd, {"data.root": "nowhere"}, config)  # in place of a folder that is not there this project's is used
    (cwd / "no-data-folder-was-given").symlink_to(data_dir)
    assert run(*command, cwd=cwd).code == 0


# Links and pipes

LINKED_FILES = [
    ".lock",
    "train.log",
    "status.json",
    "figures",
    "checkpoints/best.ckpt",
    ".hydra/config.yaml",
    "new/a/b",
]


@pytest.mark.parametrize("name", LINKED_FILES)
def test_run_with_outside_link_is_refused(name: str, cwd: Path) -> None:
    """A run with a symbolic link that leads out of its folder is refused."""
    link = cwd / RUN / name
    link.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(link, cwd / "secret" / link.name) if link.exists() else None
    link.symlink_to(cwd / "secret" / link.name)
    for command in (EVAL, RESUME) if name == "train.log" else (RESUME,):
        error = expect_refusal(cwd, *command)
        assert f"{RUN}/{name} is a link that leads out of" in error


def test_run_with_pipe_is_refused(cwd: Path) -> None:
    """A run with a named pipe is refused at once instead of waiting for it."""
    (cwd / CONFIG).unlink()
    os.mkfifo(cwd / CONFIG)
    for command in (EVAL, RESUME):
        error = run(*command, cwd=cwd).error
        assert "config.yaml" in error and ("is not a regular file" in error or "is missing" in error)


def test_typed_link_to_run_is_followed(cwd: Path) -> None:
    (cwd / "link").symlink_to(RUN)
    assert run("src.eval", "run=link", "trust=null", cwd=cwd).code == 0


def test_new_run_refuses_folder_with_links(cwd: Path) -> None:
    folder = cwd / "outputs" / "runs" / "new"
    folder.mkdir()
    (cwd / "secret" / "empty.log").touch()
    (folder / "train.log").symlink_to("../../../secret/empty.log")
    assert "new/train.log is a link" in expect_refusal(cwd, "src.train", "name=new")


# YAML

BILLION = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['x'])}]\n" for n in range(12))
YAML_TEXTS = {
    "a billion laughs": (BILLION, "it has an anchor (a0)"),
    "depth": ("model: " + "[" * 100_000, "levels deep"),
    "size": ("x" * 2_000_000, "such a file has at most"),
    "objects": ("model: !!python/object/apply:os.mkdir [ran]", "it has a tag"),
    "bytes": ("\x00\x01", "is damaged"),
    "nothing": ("", "it has no settings"),
    "a list": ("- model\n", "it has no settings"),
    "no parts": ("model: 5\n", "it has no data"),
}


@pytest.mark.parametrize("name", YAML_TEXTS)
def test_malicious_yaml_is_refused(name: str, cwd: Path) -> None:
    """YAML that is not a config, or is too large or too deep, is refused at once."""
    text, told = YAML_TEXTS[name]
    (cwd / CONFIG).write_text(text)
    for command in (EVAL, RESUME) if name == "a billion laughs" else (RESUME,):
        assert told in (error := expect_refusal(cwd, *command)) and "config.yaml is damaged: " in error


def test_exploding_references_are_refused(cwd: Path) -> None:
    """References that grow exponentially when resolved are refused at once."""
    edit_config(cwd, {"x0": "x"} | {f"x{n}": f"${{x{n - 1}}}${{x{n - 1}}}" for n in range(1, 60)})
    assert "with its references resolved" in expect_refusal(cwd, *RESUME)


@pytest.mark.parametrize(
    "settings", [{"callbacks": 5}, {"trainer": []}, {"model": {}}, {"callbacks.x": {"a": 1}}, {"paths": 5}]
)
def test_config_with_wrong_types_is_refused(settings: dict[str, Any], cwd: Path) -> None:
    """A config with parts of wrong types gives a one-line error or has no effect."""
    edit_config(cwd, settings)
    if settings == {"paths": 5}:  # they are those of this project
        assert run(*EVAL, cwd=cwd).code == 0
    else:
        assert "config.yaml is damaged: " in expect_refusal(cwd, *RESUME)


@pytest.mark.parametrize("settings", [{"model.dropout": "x"}, {"data.batch_size": [1]}])
def test_saved_settings_are_checked(settings: dict[str, Any], cwd: Path) -> None:
    """Settings from a folder are checked as those on the command line are."""
    edit_config(cwd, settings)
    for command in (EVAL, RESUME):
        assert next(iter(settings)) in expect_refusal(cwd, *command)


# Checkpoints


def test_pickle_in_checkpoint_does_not_run(cwd: Path) -> None:
    for name in ("best", "last"):
        path = cwd / RUN / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True)
        torch.save({**content, "hyper_parameters": {"x": Bomb()}}, path)
    for command in (EVAL, RESUME):
        assert "checkpoint" in expect_refusal(cwd, *command)
    for name in ("best", "last"):
        (cwd / RUN / "checkpoints" / f"{name}.ckpt").write_bytes(pickle.dumps(Bomb()))
    for command in (EVAL, RESUME):
        assert "checkpoint" in expect_refusal(cwd, *command) or "old format" in expect_refusal(cwd, *command)


def test_zip_bomb_checkpoint_is_refused(cwd: Path) -> None:
    """A compressed archive in place of a checkpoint is refused without unpacking it."""
    for name in ("best", "last"):
        with zipfile.ZipFile(cwd / RUN / "checkpoints" / f"{name}.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"0" * 20_000_000)
    for command in (EVAL, RESUME):
        assert "its layout is not that of torch.save" in expect_refusal(cwd, *command)


def test_evaluation_writes_only_metrics(cwd: Path) -> None:
    before = list_files(cwd)
    assert run(*EVAL, cwd=cwd).code == 0
    assert set(list_files(cwd)) - set(before) == {f"{RUN}/eval_val.json"}
