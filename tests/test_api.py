"""The API for Python code: the numbers of the command line, its errors, and the state of the process."""

import importlib.util
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import src.api
from src.api import InputError, Run, load_run, load_sweep, sweep, train
from src.core import formatting
from tests.command_line import BARE, CONF, ROOT, drop_seconds, run, train_bare

EPOCHS = "trainer.max_epochs=2"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and Hydra's state of the process as another program's."""
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield tmp_path


def train_quickly(*overrides: str) -> Run:
    return train([*BARE, *overrides])


def test_results_are_those_of_command(here: Path) -> None:
    """Two runs in one process, the second after one of another size, and one that is resumed."""
    theirs, arguments = GlobalHydra.instance().hydra, list(sys.argv)
    alone = drop_seconds(train_bare(EPOCHS, "name=command", cwd=here).metrics)
    GlobalHydra.instance().hydra = theirs
    first = train_quickly("trainer.max_epochs=1", "name=first")
    train_quickly("model.hidden_size=[3,3]", "seed=5", EPOCHS)
    second = train(f"{' '.join(BARE)} {EPOCHS} name='a second'")
    assert second.folder == here / "outputs/runs/a-second"
    assert drop_seconds(second.metrics) == drop_seconds(first.resume(EPOCHS).metrics) == alone
    assert second.evaluate()["val/loss"] == alone["val/loss"]
    assert GlobalHydra.instance().hydra is theirs and not HydraConfig.initialized() and sys.argv == arguments


def test_run_holds_its_results(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(f"logger=none {EPOCHS} name=whole")
    (here / "elsewhere").mkdir()
    loaded = load_run("outputs/runs/whole")
    monkeypatch.chdir("elsewhere")
    assert (loaded.status, loaded.config.data.noise, loaded.checkpoint.name) == ("finished", 0.01, "best.ckpt")
    assert list(loaded.history.epoch) == [1, 2] and loaded.metrics["epochs"] == 2
    assert loaded.figures["confusion_matrix"]._repr_png_().startswith(b"\x89PNG")
    assert "<td>test/acc</td>" in loaded._repr_html_()
    monkeypatch.setattr(formatting, "find_spec", lambda name: None)  # as where pandas is not installed
    assert [row["epoch"] for row in loaded.history] == [1, 2]


def test_predictions_are_those_of_command(here: Path) -> None:
    """Arrays, tensors, lists, paths and a split give what the command writes, all classes in their order."""
    trained = train_quickly(EPOCHS)
    points = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    np.save("points.npy", points)
    folder = str(trained.folder)
    assert run("src.predict", f"run={folder}", "points.npy", "out=all.json", cwd=here).code == 0
    found = trained.predict(points)
    rows = json.loads(Path("all.json").read_text())
    assert found.values == [row["prediction"] for row in rows] and len(found) == 300
    assert found.probabilities is not None
    assert found.probabilities.max(axis=1).tolist() == [row["top"][0]["probability"] for row in rows]
    for same in (torch.tensor(points), points.tolist(), "points.npy", [Path("points.npy")]):
        assert np.array_equal(trained.predict(same).probabilities, found.probabilities)
    assert set(trained.predict(split="test").table.target) == {"0", "1"}
    outputs = trained.model(torch.tensor(points).float()).squeeze(1)
    assert np.allclose(outputs.double().sigmoid().detach(), found.probabilities[:, 1])


def test_table_run_predicts_data_frame(here: Path) -> None:
    frame = pandas.DataFrame({"size": range(60), "kind": ["a", "b"] * 30, "price": [0.5 * n for n in range(60)]})
    frame.to_csv("prices.csv", index=False)
    trained = train_quickly("data=table", "data.file=prices.csv", "data.target=price", EPOCHS)
    found = trained.predict(frame)
    assert found.probabilities is None and found.values == trained.predict("prices.csv").values
    with pytest.raises(InputError, match=r"give a data frame, or the path of a CSV file"):
        trained.predict([[1, 2]])


def test_sweep_shows_its_table(here: Path) -> None:
    jobs = ["model.hidden_size=2,30", "name=width", "hydra/launcher=basic"]
    assert run("src.train", "-m", *BARE, EPOCHS, *jobs, cwd=here).code == 0
    found = load_sweep("outputs/sweeps/width")
    assert list(found.table["model.hidden_size"]) == [2, 30] == [each.config.model.hidden_size for each in found.runs]
    assert found.best.metrics["best"] == max(found.table["val/acc"])
    assert "<td>model.hidden_size</td>" in found._repr_html_()


def test_failing_sweep_tells_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^data=xr: there is no such choice, did you mean xor\?"):
        sweep("data=xr seed=1,2")
    assert capsys.readouterr().out == "" and not list(here.iterdir())


def test_thunderhead_is_the_same_package(here: Path) -> None:
    """Each module and each class is there once, whichever name it is imported by."""
    alias = importlib.import_module("thunderhead.api")
    assert alias is src.api and alias.__spec__.name == "src.api"
    assert importlib.import_module("thunderhead.core.errors").InputError is InputError
    assert importlib.util.find_spec("thunderhead.train").origin == str(ROOT / "src" / "train.py")
    with pytest.raises(ModuleNotFoundError, match=r"thunderhead\.nothing"):
        importlib.import_module("thunderhead.nothing")


def test_installation_has_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder of src/ is a package to install, and its other files and conf/ are in their packages."""
    monkeypatch.chdir(ROOT)
    given = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]
    alias = given["package-dir"]["thunderhead"]
    folders = {path.parent for path in Path("src").rglob("*.py")} - {Path(alias)} | {Path("src/plugins")}
    assert {".".join(folder.parts) for folder in folders} | {"src.conf", "thunderhead"} == set(given["packages"])
    others = [path for path in Path("src").rglob("*.*") if path.suffix not in (".py", ".pyc") and path.is_file()]
    assert all(any(path.match(pattern) for pattern in given["package-data"]["*"]) for path in others)
    assert {path.suffix for path in CONF.rglob("*.*")} == {".yaml"} and given["package-dir"]["src.conf"] == "conf"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer.lrr=1", "there is no setting optimizer.lrr, did you mean optimizer.lr?"),
        ("optimizer.lr=-1", "optimizer.lr=-1 must be a number above 0"),
        ("data=xr", "data=xr: there is no such choice, did you mean xor?"),
        ("-m seed=1,2", "-m is a flag of the command line"),
        ("seed=1,2", "seed=1,2: these are several values"),
        ("'seed=1", "a quote is left open"),
        (["seed", "3"], "a setting is typed NAME=VALUE"),
        ("hydra.run.dir=x", "hydra.run.dir=x has no effect in Python"),
        ("resume=nowhere", "resume=nowhere: no run there"),
    ],
)
def test_wrong_settings_are_refused(overrides: str | list[str], message: str, here: Path) -> None:
    with pytest.raises(InputError) as refused:
        train(overrides)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list(here.glob("outputs/runs/*"))


def test_wrong_inputs_are_refused(here: Path) -> None:
    trained = train_quickly(EPOCHS)
    wrong = {
        "the shape 3×3": np.zeros((3, 3)),
        "holds complex128": np.zeros((2, 2), complex),
        "none.npy does not exist": "none.npy",
        "the inputs are no array": [[1, 2], [3]],
        "either the inputs to predict or a split": None,
    }
    for message, inputs in wrong.items():
        with pytest.raises(InputError, match=message):
            trained.predict(inputs)
    with pytest.raises(InputError, match="nowhere: no run there"):
        load_run("nowhere")
    with pytest.raises(InputError, match="it contains no jobs"):
        load_sweep("outputs/runs")
    with pytest.raises(InputError, match="split=none must be"):
        trained.predict(split="none")
