"""Runs that Python code starts: from a composed config, and by the file instead of the module."""

import subprocess
import sys
from pathlib import Path

from tests.command_line import BARE, ROOT, evaluate, read_json, train_bare

SCRIPT = """
from hydra import compose, initialize_config_dir
from src.core.errors import InputError
from src.training.evaluate import evaluate
from src.training.run import train
from src.core.places import CONF

with initialize_config_dir(str(CONF), version_base="1.3"):
    bare = ["callbacks=none", "logger=none", "name=a b"]
    train(compose("train", [*bare, "trainer.max_epochs=2"]))
    again = train(compose("train", [*bare, "trainer.max_epochs=3", "resume=outputs/runs/a-b"]))
    measured = evaluate(compose("eval", ["run=outputs/runs/a-b"]))
    for overrides in bare, ["optimizer.lr=-1"], ["experiment=[xor,wheat]"], ["sweep=xor"], ["hydra.run.dir=x"]:
        try:
            train(compose("train", overrides, return_hydra_config=True))
        except InputError as error:
            print("refused:", error)
assert measured["val/acc"] == again, (measured, again)
"""


def start(*arguments: str, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_composed_config_trains_like_command_line(tmp_path: Path) -> None:
    """Also what is refused is, and leaves no folder; the run is one that the commands open."""
    told = start("-c", SCRIPT, cwd=tmp_path, path=str(ROOT))
    refused = [line for line in told.splitlines() if line.startswith("refused: ")]
    assert "outputs/runs/a-b already exists" in refused[0]
    assert "optimizer.lr=-1 must be a number above 0" in refused[1]
    assert "experiment=xor is for data=xor, optimizer=sgd and experiment=wheat for" in refused[2]
    assert "a sweep is several runs: start it on the command line" in refused[3]
    assert "hydra.run.dir=x has no effect in Python; name=… and paths.outputs=…" in refused[4]
    assert [path.name for path in (tmp_path / "outputs" / "runs").iterdir()] == ["a-b"]
    assert "best epoch" in told and "best epoch" in (tmp_path / "outputs/runs/a-b/train.log").read_text()
    alone = train_bare("trainer.max_epochs=3", "name=c", cwd=tmp_path).metrics
    found = read_json(tmp_path / "outputs/runs/a-b/metrics.json")
    assert [found[name] for name in ("val/loss", "test/loss")] == [alone[name] for name in ("val/loss", "test/loss")]
    evaluate("run=outputs/runs/a-b", cwd=tmp_path)


def test_command_files_can_be_executed(tmp_path: Path) -> None:
    """The commands can also be started by the paths of their files."""
    job = (str(ROOT / "src" / "train.py"), "-m", *BARE, "trainer.max_epochs=1", "seed=1", "name=file")
    assert "1 job" in start(*job, cwd=tmp_path)
    assert read_json(tmp_path / "outputs/sweeps/file/0/status.json")["status"] == "finished"
    assert "file" in start(str(ROOT / "src" / "runs.py"), cwd=tmp_path)
