"""The command line: help, sweeps, names, exit statuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import BARE, CONF, ROOT, Outcome, read_json, run, run_process, train_bare

EXAMPLE = re.compile(r"^\s+python -m src\.train\b", re.MULTILINE)

# Runs a module of the command line and then tells which of the heavy packages it has imported.
IMPORT_REPORTER = """
import runpy, sys
sys.argv = ["-m", *sys.argv[1:]]
try:
    runpy.run_module("src.train", run_name="__main__", alter_sys=True)
finally:
    print("imported:", sorted({"torch", "torchvision", "lightning", "matplotlib", "tensorboard"} & set(sys.modules)))
"""


def test_help_shows_groups_settings_and_examples(tmp_path: Path) -> None:
    """There are seven examples."""
    text = run("src.train", "--help", cwd=tmp_path).out
    groups = {path.parent.name for path in CONF.glob("*/*.yaml")}
    assert {"model", "data", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug"} <= groups
    for group in groups:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml")))
        assert f"{group}: {choices}\n" in text
    assert len(EXAMPLE.findall(text.split("Settings, as")[0].split("Examples")[1])) == 7
    assert "hidden_size: 100" in text
    assert not (tmp_path / "outputs").exists()


def test_help_survives_closed_pipe(tmp_path: Path) -> None:
    """A reader may close the pipe early: no message, and the exit status of SIGPIPE."""
    command = [sys.executable, "-m", "src.train", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stderr is not None
        started.stdout.close()
        assert (started.stderr.read(), started.wait()) == ("", 141)


def test_help_shows_values_and_comments(tmp_path: Path) -> None:
    text = run("src.train", "--help", "model=cnn", "data=mnist", "optimizer.lr=0.5", cwd=tmp_path).out
    lines = [" ".join(line.split()) for line in text.split("Settings, as")[1].splitlines()]
    assert "${" not in text and "$$" not in text
    for line in (
        "model: # cnn",
        "channels: [32, 64, 128] # of each block: 3×3 convolution, activation, 2×2 max pooling",
        "lr: 0.5 # learning rate, > 0",
        "l2: 0.0 # penalty l2·Σw²",  # from a file that several models build on
        "order_seed: 0 # seed of the order of the batches; a fixed number gives all jobs of a sweep the same order",
        "max_epochs: 10 # passes over the training set",
        'name: "" # name of a subfolder of the run\'s folder for the files; "": none',
        "gradient_clip_val: null # largest norm of the gradient; null: no clipping",
    ):
        assert line in lines
    points = [" ".join(line.split()) for line in run("src.train", "--help", cwd=tmp_path).out.splitlines()]
    assert "noise: 0.01 # standard deviation around each corner" in points  # from a file of several groups
    assert "shuffle: true # a new order each epoch" in points
    evaluation = run("src.eval", "--help", cwd=tmp_path).out
    assert "run: ??? # the run's folder" in [" ".join(line.split()) for line in evaluation.splitlines()]


def test_every_setting_has_a_comment() -> None:
    line = re.compile(r" *(?!_target_|defaults)\w+: [^#\n]*[^#\s{}]( # .*)?")
    apart = {"experiment", "sweep", "debug"}  # they give values to settings that are described elsewhere
    files = [path for path in CONF.rglob("*.yaml") if path.relative_to(CONF).parts[0] not in apart]
    files = [path for path in files if path.parent.name not in ("help", "job_logging")]
    texts = {
        path: re.split(r"^(?:recipe|hydra):", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0] for path in files
    }
    bare = [
        (path.name, each)
        for path, text in texts.items()
        for each in text.splitlines()
        if (found := line.fullmatch(each)) and not found[1]
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("-m src.train model=c", ["model=cnn"]),
        ("-m src.train data=_", []),
        ("-m src.train -m data=mnist optimizer=ada", ["optimizer=adam", "optimizer=adamw"]),
        ("-m src.train model=cnn model.chan", ["model.channels."]),
        ("-m src.eval spl", ["split="]),
        ("-m src.predict robin.jpg ./a=b.png trainer=cpu spl", ["split="]),
        ("-m src.train", []),
        ("some/script.py model=c", []),
    ],
)
def test_bash_completion_follows_module(line: str, offered: list[str]) -> None:
    script = f'source src/completion.bash; COMP_LINE="{sys.executable} {line}"; _thunderhead; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered and not done.stderr


def test_help_examples_compose(tmp_path: Path) -> None:
    text = run("src.train", "--help", cwd=tmp_path).out.split("Examples")[1].split("Settings, as")[0]
    examples = [
        line.split("src.train", 1)[1].replace("'", "").split() for line in text.splitlines() if "src.train" in line
    ]
    assert len(examples) == 7
    for arguments in examples:
        if not any(argument.startswith(("-m", "resume=")) for argument in arguments):
            outcome = run("src.train", *arguments, "--cfg", "job", cwd=tmp_path)
            assert (outcome.code, outcome.err) == (0, "")


def test_cfg_job_prints_settings_only(tmp_path: Path) -> None:
    """The settings are printed and no run is started."""
    outcome = run("src.train", "model=mlp", "optimizer=sgd", "--cfg", "job", cwd=tmp_path)
    assert outcome.code == 0
    assert "_target_: src.models.mlp.MLP" in outcome.out
    assert "_target_: torch.optim.SGD" in outcome.out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "status"), [(("--help",), 0), (("--cfg", "job"), 0), (("model=nope",), 1), (("resume=nope",), 1)]
)
def test_heavy_packages_are_imported_lazily(arguments: tuple[str, ...], status: int, tmp_path: Path) -> None:
    """Without a run, torch and the other heavy packages are not imported."""
    script = tmp_path / "imported.py"
    script.write_text(IMPORT_REPORTER)
    outcome = run_process("imported", *arguments, cwd=tmp_path, is_fresh=True)
    assert outcome.out.rstrip().endswith("imported: []")
    assert outcome.code == status


def test_full_traceback_is_available(tmp_path: Path) -> None:
    outcome = run_process("src.train", "optimizer.lrr=1", cwd=tmp_path, is_fresh=True, HYDRA_FULL_ERROR="1")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "lrr" in outcome.err


def test_log_of_failed_run_has_traceback(tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, "optimizer.lr=1e30", "name=failed", cwd=tmp_path)
    assert "lower optimizer.lr" in outcome.error
    assert "Traceback" in (outcome.folder / "train.log").read_text()


# Sweeps


def run_sweep(*arguments: str, cwd: Path) -> Outcome:
    return run("src.train", "-m", *BARE, "trainer.max_epochs=1", *arguments, cwd=cwd)


def test_hydra_flags_may_appear_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "noisy.yaml").write_text("defaults: [xor]\nnoise: 0.375\n")
    for flags in (["--config-dir=mine"], ["--config-dir", "mine"], ["-cd", "mine"]):
        outcome = run("src.train", "seed=3", *flags, "data=noisy", "-c", "job", "model.dropout=0.125", cwd=tmp_path)
        assert outcome.code == 0, outcome.text
        assert all(line in outcome.out for line in ("noise: 0.375", "dropout: 0.125", "seed: 3"))


def test_job_folders_are_named_by_axes(tmp_path: Path) -> None:
    outcome = run_sweep("optimizer.lr=1e-2,1e-3", "model.hidden_size=[4,4],3", "model.dropout=0.1", cwd=tmp_path)
    assert outcome.code == 0
    names = [folder.name for folder in outcome.folders]
    assert names == [
        "0_lr-0.01_hidden_size-4-4",
        "1_lr-0.01_hidden_size-3",
        "2_lr-0.001_hidden_size-4-4",
        "3_lr-0.001_hidden_size-3",
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    sizes = [read_json(folder / "metrics.json")["parameters"] for folder in outcome.folders]
    assert sizes == [2 * 4 + 4 + 4 * 4 + 4 + 4 + 1, 2 * 3 + 3 + 3 + 1] * 2
    assert [read_json(folder / "status.json")["status"] for folder in outcome.folders] == ["finished"] * 4


def test_job_folders_are_named_by_choices(tmp_path: Path) -> None:
    outcome = run_sweep("optimizer=adam,sgd", "seed=range(2)", "name=both", cwd=tmp_path)
    assert [folder.name for folder in outcome.folders] == [
        "0_optimizer-adam_seed-0",
        "1_optimizer-adam_seed-1",
        "2_optimizer-sgd_seed-0",
        "3_optimizer-sgd_seed-1",
    ]
    assert {folder.parent for folder in outcome.folders} == {tmp_path / "outputs" / "sweeps" / "both"}
    losses = [read_json(folder / "metrics.json")["train/loss"] for folder in outcome.folders]
    assert len(set(losses)) == 4


def test_sweep_preset_runs_without_m_flag(tmp_path: Path) -> None:
    """All its jobs run, in folders named by its axes."""
    run("src.train", *BARE, "sweep=pulse", "seed=3", "trainer.max_epochs=1", "data.train_size=20", cwd=tmp_path)
    jobs = sorted(path.parent for path in tmp_path.glob("outputs/sweeps/*/*/metrics.json"))
    assert [job.name for job in jobs] == ["0_hidden_size-1", "1_hidden_size-2"]  # seed has but one value
    assert len({job.parent for job in jobs}) == 1
    assert [read_json(job / "status.json")["status"] for job in jobs] == ["finished"] * 2
    assert [read_json(job / "metrics.json")["parameters"] for job in jobs] == [1 + 1 + 1 + 1, 2 + 2 + 2 + 1]


def test_job_matches_separate_run(tmp_path: Path) -> None:
    jobs = run_sweep("seed=5,6", "model.dropout=0.2", "name=jobs", cwd=tmp_path).folders
    alone = train_bare("seed=6", "model.dropout=0.2", "trainer.max_epochs=1", cwd=tmp_path)
    names = ("train/loss", "val/loss", "test/loss")
    job = read_json(jobs[1] / "metrics.json")
    assert [job[name] for name in names] == [alone.metrics[name] for name in names]


def test_invalid_job_does_not_stop_others(tmp_path: Path) -> None:
    outcome = run_sweep("optimizer.lr=1e-2,-1,1e-3", "name=bad", cwd=tmp_path)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert "error: optimizer.lr=-1 must be a number above 0" in outcome.text
    statuses = [read_json(folder / "status.json")["status"] for folder in outcome.folders]
    assert statuses == ["finished", "failed", "finished"]
    assert not (outcome.folders[1] / "metrics.json").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("trainer=ddp",), "trainer.strategy=ddp in a sweep (-m)"),
        (("trainer.devices=2",), "trainer.devices=2 in a sweep (-m)"),
        (("trainer.devices=[0,1]",), "trainer.devices=[0, 1]: device numbers are for GPUs"),
    ],
)
def test_sweep_refuses_several_devices(settings: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """The jobs of a sweep are not trained by several processes or on several devices."""
    outcome = run_sweep(*settings, "trainer.accelerator=cpu", "seed=1,2", cwd=tmp_path)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    failed = [line for line in outcome.out.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert all(f"(error): {told}" in line for line in failed)


def test_basic_launcher_refuses_existing_sweep_name(tmp_path: Path) -> None:
    """Hydra's basic launcher cannot resume a sweep, so its name cannot be used again."""
    run_sweep("seed=1", "name=once", cwd=tmp_path)
    error = run_sweep("seed=2", "name=once", "hydra/launcher=basic", cwd=tmp_path).error
    assert "outputs/sweeps/once already exists" in error
    assert "name=" in error
    assert "resume=" not in error  # a sweep cannot be gone on with as one


def test_several_sweep_presets_are_refused(tmp_path: Path) -> None:
    assert "sweep=… is one preset: give it one value" in run_sweep("sweep=pulse,cubic", cwd=tmp_path).error
    assert not (tmp_path / "outputs").exists()


def test_resume_is_refused_in_sweep(tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    outcome = run("src.train", "-m", f"resume={folder}", "seed=1,2", cwd=tmp_path)
    assert "leave out -m" in outcome.error
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
