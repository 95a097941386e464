"""What a user can put right is told in one line that names it and the remedy; with status 1, without a traceback."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.command_line import (
    BARE,
    Outcome,
    get_image_settings,
    get_small_image_settings,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    train_bare,
)


def assert_mentions(error: str, *words: str) -> None:
    """Fail unless the line has all the words."""
    assert [word for word in words if word not in error] == [], error


# Names, types, ranges: told before any data are loaded


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        # names that do not exist, with the nearest that does
        ("modle=mlp", ["modle", "did you mean model?"]),
        ("optimiser=adam", ["optimiser", "did you mean optimizer?"]),
        ("model=mpl", ["model=mpl", "did you mean mlp?", "cnn, mlp, nearest_neighbor, resnet18"]),
        ("data=fashionmnist", ["data=fashionmnist", "did you mean fashion_mnist?"]),
        ("scheduler=cosinus", ["scheduler=cosinus", "did you mean cosine?"]),
        ("debug=overfitting", ["debug=overfitting", "did you mean overfit?", "one_batch, overfit, profiler"]),
        ("optimizer.lrr=0.1", ["optimizer.lrr", "did you mean optimizer.lr?"]),
        ("model.hiden_size=3", ["model.hiden_size", "did you mean model.hidden_size?"]),
        ("trainer.max_epoch=3", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
        ("sead=1", ["sead", "did you mean seed?"]),
        ("optimizer.learning_speed_of_my_net=1", ["optimizer.learning_speed_of_my_net", "--cfg job"]),
        ("lr=0.1", ["no setting lr", "did you mean optimizer.lr?"]),
        ("epochs=3", ["no setting epochs", "did you mean trainer.max_epochs?"]),
        ("optimizer.momentum=0.5", ["no setting optimizer.momentum: optimizer=muon or rmsprop or sgd has it"]),
        ("patience=3", ["callbacks=early_stopping has callbacks.early_stopping.patience"]),
        (
            "model.depth=3",
            ["no setting model.depth; other arguments of the model's class are added with +model.depth=…"],
        ),
        ("trainer.min_epochs=3", ["trainer.min_epochs", "+trainer.min_epochs=…"]),
        ("scheduler._target_=a.b", ["no setting scheduler._target_: write +scheduler._target_=…"]),
        ("sweep=seeds,xor", ["sweep=seeds,xor: a sweep is one preset"]),
        ("seed=range(3)", ["seed=range(3): these are several values; add -m"]),
        ("hydra.job.nmae=x", ["no setting hydra.job.nmae", "--cfg hydra"]),
        ("data=mnist,xor", ["data=mnist,xor: these are several values; add -m to sweep over them"]),
        ("data=[mnist,xor]", ["data=[mnist,xor]: a run has one data; -m data=mnist,xor trains one run with each"]),
        ("logger=csv,tensorboard", ["add -m to sweep over them, or give a list: 'logger=[csv,tensorboard]'"]),
        ("=3", ["=3: a setting is typed NAME=VALUE"]),
        # out of range
        ("optimizer.lr=-1", ["optimizer.lr=-1", "above 0"]),
        ("optimizer.lr=0", ["optimizer.lr=0", "above 0"]),
        ("optimizer.weight_decay=-0.1", ["optimizer.weight_decay=-0.1", "from 0"]),
        ("model.dropout=1.0", ["model.dropout=1.0", "below 1"]),
        ("model.dropout=-0.5", ["model.dropout=-0.5", "from 0"]),
        ("model.init=dirac", ["model.init=dirac is for convolutions", "MLPNet has none", "xavier, he"]),
        ("model.label_smoothing=1", ["model.label_smoothing=1", "below 1"]),
        ("model.hidden_size=0", ["model.hidden_size=0", "whole number from 1", "[512,512]"]),
        ("model.hidden_size=[4,-4]", ["model.hidden_size=[4, -4]", "[512,512]"]),
        ("data.batch_size=0", ["data.batch_size=0", "from 1"]),
        ("data.val_size=-5", ["data.val_size=-5", "fraction"]),
        ("data.train_size=0", ["data.train_size=0", "above 0"]),
        ("data.noise=-1", ["data.noise=-1", "from 0"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "from 1"]),
        ("trainer.devices=0", ["trainer.devices=0", "from 1", "auto"]),
        ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val=-1", "above 0"]),
        ("seed=-1", ["seed=-1", "from 0"]),
        ("seed=4294967296", ["seed=4294967296", "2³²"]),
        ("threads=0", ["threads=0", "from 1 to 1,024"]),
        # of a wrong type
        ("optimizer.lr=fast", ["optimizer.lr=fast", "a number above 0"]),
        ("optimizer.lr=true", ["optimizer.lr=true", "a number above 0"]),
        ("trainer.max_epochs=2.5", ["trainer.max_epochs=2.5", "whole number"]),
        ("model.hidden_size=big", ["model.hidden_size=big", "list"]),
        ("model.batch_norm=1", ["model.batch_norm=1", "false, true, before or after"]),
        ("model.activation=rely", ["model.activation=rely", "relu"]),
        ("seed=abc", ["seed=abc", "whole number"]),
        ("trainer.accelerator=cup", ["trainer.accelerator=cup", "cpu"]),
        ("recipe.picture_every_n_epochs=5", ["recipe.picture_every_n_epochs", "+recipe.picture_every_n_epochs="]),
        # what does not go together, or is not there
        ("model=cnn", ["CNN", "(C, H, W)", "(2,)", "model=mlp"]),
        ("model=resnet18", ["ResNet18", "(C, H, W)", "model=mlp"]),
        ("trainer=gpu", ["trainer.accelerator=gpu", "no GPU", "trainer=cpu"]),
        ("trainer=mps", ["trainer.accelerator=mps", "no Apple GPU", "trainer=cpu"]),
        ("+lr=0.1", ["lr: there is no such setting, did you mean optimizer.lr?"]),
        ("+trainer.max_time_=1", ["trainer.max_time_", "no such setting, did you mean max_time?"]),
        ("+trainer.nonsense=1", ["trainer.nonsense", "lightning.Trainer", "no such setting"]),
        ("+model.nonsense=1", ["model.nonsense", "src.models.mlp.MLP", "no such setting"]),
        ("+data.nonsense=1", ["data.nonsense", "src.data.toy.XOR", "no such setting"]),
        ("ckpt_path=some/where.ckpt", ["ckpt_path=some/where.ckpt", "no such file"]),
        ("ckpt_path=nowhere", ["ckpt_path=nowhere", "no such file"]),
        ("resume=outputs/runs/none", ["resume=outputs/runs/none", "no run there"]),
    ],
)
def test_invalid_setting_is_refused_in_one_line(setting: str, words: list[str], tmp_path: Path) -> None:
    outcome = run("src.train", setting, cwd=tmp_path)
    assert_mentions(outcome.error, *words)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("src.train", "--epochs 3", ["--epochs: there is no such flag", "without dashes: trainer.max_epochs=3;"]),
        ("src.train", "--lr=0.1", ["--lr=0.1: there is no such flag", "without dashes: optimizer.lr=0.1;"]),
        ("src.train", "-m -hidden 64", ["-hidden: there is no such flag", "without dashes: model.hidden_size=64;"]),
        ("src.train", "-s 3", ["-s: there is no such flag"]),
        ("src.train", "--help me", ["me: a setting is typed NAME=VALUE"]),
        ("src.train", "seed 3", ["seed: a setting is typed NAME=VALUE, without spaces: seed=3"]),
        ("src.train", "lr = 0.1", ["lr: a setting is typed NAME=VALUE, without spaces: optimizer.lr=0.1"]),
        ("src.train", "mlp", ["mlp: a setting is typed NAME=VALUE", "did you mean model=mlp?"]),
        ("src.train", "-m lr=0.1,0.2", ["no setting lr", "did you mean optimizer.lr?"]),
        ("src.train", "-m model=mlp,CNN", ["model=CNN", "did you mean cnn?", "one of airbench, cnn, mlp, nearest_"]),
        ("src.train", "model=cnn data=mnist model.whiten=2", ["there is no setting model.whiten"]),
        ("src.train", "model=nearest_neighbor model.block=5", ["there is no setting model.block"]),
        (
            "src.train",
            "model=nearest_neighbor model.l1=1",
            ["model.l1: model=airbench or cnn or mlp has it"],
        ),
        ("src.train", "--cfg everything", ["--cfg", "invalid choice: 'everything'"]),
        ("src.eval", "outputs/runs/x", ["did you mean run=outputs/runs/x?"]),
        ("src.eval", "resume=outputs/runs/x", ["no setting resume", "did you mean run?"]),
        ("src.eval", "run=x lr=0.1", ["no setting lr: a run is evaluated with its own settings"]),
        ("src.report", "--foo", ["required: folder", "python -m src.report --help"]),
        ("src.compare", "a b", ["unrecognized arguments: b", "python -m src.compare --help"]),
        ("src.runs", "--sort foo", ["--sort", "'foo'", "python -m src.runs --help"]),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    module: str, arguments: str, words: list[str], tmp_path: Path
) -> None:
    outcome = run(module, *arguments.split(), cwd=tmp_path)
    assert_mentions(outcome.error, *words)
    assert outcome.text == f"{outcome.error}\n"


def test_sum_loss_refuses_accumulated_batches(tmp_path: Path) -> None:
    error = run("src.train", "model.reduction=sum", "trainer.accumulate_grad_batches=2", cwd=tmp_path).error
    assert_mentions(error, "model.reduction=sum", "model.reduction=mean")


@pytest.mark.parametrize("setting", ["seed=abc", "recipe.max_epochs=0", "recipe.adam.lr=-1"])
def test_interpolated_invalid_value_is_reported_once(setting: str, tmp_path: Path) -> None:
    """A value that other settings refer to is named only where it was set."""
    error = run("src.train", *BARE, setting, cwd=tmp_path).error
    assert error.startswith(f"error: {setting} must be ") and ";" not in error


def test_several_invalid_settings_are_reported_together(tmp_path: Path) -> None:
    error = run("src.train", "optimizer.lr=-1", "data.batch_size=x", "trainer.max_epochs=0", cwd=tmp_path).error
    assert_mentions(error, "optimizer.lr=-1", "data.batch_size=x", "trainer.max_epochs=0")


def test_missing_class_is_refused_in_one_line(tmp_path: Path) -> None:
    outcome = run("src.train", "model._target_=no_such_package.Model", cwd=tmp_path)
    assert_mentions(outcome.error, "no_such_package.Model")
    assert not (tmp_path / "outputs").exists()


# Data


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
def test_unwritable_data_folder_is_refused(data: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = run("src.train", f"data={data}", "paths.data=file/data", cwd=tmp_path).error
    assert_mentions(error, "file/data", "cannot be written", "paths.data=", "DATA_DIR")


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("mnist", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "MNIST/raw"]),
        ("fashion_mnist", ["train-images-idx3-ubyte", "FashionMNIST/raw"]),
        ("cifar10", ["data_batch_1", "test_batch", "cifar-10-batches-py"]),
    ],
)
def test_without_network_the_missing_files_are_named(
    data: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    error = run("src.train", f"data={data}", "paths.data=empty", cwd=tmp_path).error
    assert_mentions(error, "cannot be downloaded", *files, "paths.data=", "DATA_DIR")


@pytest.mark.parametrize(
    ("data", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/train-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar10", "cifar-10-batches-py/test_batch"),
    ],
)
def test_truncated_data_file_is_named(data: str, file: str, data_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data_dir, tmp_path / "data"))
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: len(content) // 2])
    outcome = run("src.train", *get_small_image_settings(data, root), cwd=tmp_path)
    assert_mentions(outcome.error, f"{root / file}: ", "files of your own must be in ")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.val_size=500", ["data.val_size=500", "200"]),
        ("data.val_size=200", ["data.val_size=200", "none of 200"]),
        ("data.val_size=1.0", ["data.val_size=1.0", "none of 200"]),
        ("data.val_size=40 data.train_size=199", ["data.train_size=199", "160"]),
    ],
)
def test_too_many_samples_are_refused(setting: str, words: list[str], data_dir: Path, tmp_path: Path) -> None:
    settings = ["data=mnist", *get_image_settings(data_dir), *setting.split()]
    assert_mentions(run("src.train", *settings, cwd=tmp_path).error, *words)


def test_early_stopping_needs_a_validation_set(tmp_path: Path) -> None:
    error = run("src.train", "callbacks=early_stopping", "data.val_size=0", cwd=tmp_path).error
    assert_mentions(error, "EarlyStopping", "data.val_size")


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_bare("trainer.max_epochs=2", "name=trained", cwd=tmp_path_factory.mktemp("trained"))


def test_truncated_checkpoint_is_refused(trained: Outcome, tmp_path: Path) -> None:
    content = (trained.folder / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.ckpt").touch()
    for name in ("half.ckpt", "empty.ckpt"):
        assert_mentions(run("src.train", f"ckpt_path={name}", cwd=tmp_path).error, name, "truncated")


def test_resume_refuses_truncated_checkpoint(trained: Outcome, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "outputs" / "runs" / "half"))
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    error = run("src.train", f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path).error
    assert_mentions(error, str(last), "truncated")
    assert last.stat().st_size == 1000


def test_checkpoint_of_other_shape_is_refused(trained: Outcome, tmp_path: Path) -> None:
    path = trained.folder / "checkpoints" / "best.ckpt"
    error = run("src.train", f"ckpt_path={path}", "model.hidden_size=50", cwd=tmp_path).error
    assert_mentions(error, str(path), "does not fit", "net.layers.0.0.weight", "(100, 2)", "(50, 2)")
    deeper = run("src.train", f"ckpt_path={path}", "model.hidden_size=[100,7]", cwd=tmp_path).error
    assert_mentions(deeper, str(path), "does not fit", "net.layers.1.0.weight")


# Folders


def test_existing_run_name_is_refused(trained: Outcome, tmp_path: Path) -> None:
    """The earlier run is unchanged."""
    cwd = trained.folder.parents[2]
    before = {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}
    error = run("src.train", "name=trained", *BARE, "seed=1", cwd=cwd).error
    assert_mentions(error, "outputs/runs/trained already exists", "name=", "resume=outputs/runs/trained")
    assert {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_unwritable_outputs_folder_is_refused(mode: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = run("src.train", *mode, "paths.outputs=file/outputs", cwd=tmp_path).error
    assert_mentions(error, "file/outputs", "cannot be created", "paths.outputs=")


# Training that goes wrong

FLAWED = """
from src.models.mlp import MLP

class Flawed(MLP):
    def training_step(self, batch, batch_idx):
        bad = self.trainer.global_step == 15
        return super().training_step((batch[0] * (float("nan") if bad else 1), batch[1]), batch_idx)
"""


def test_nan_loss_ends_run(tmp_path: Path) -> None:
    """The epochs before are kept, and the run has failed with the reason diverged."""
    (tmp_path / "flawed.py").write_text(FLAWED)
    settings = [*BARE, "model._target_=flawed.Flawed", "trainer.max_epochs=5"]
    outcome = run("src.train", *settings, cwd=tmp_path)
    assert_mentions(
        outcome.error,
        "the loss became nan at step 16 (epoch 2)",
        "optimizer.lr",
        "trainer.gradient_clip_val; epoch 1 is kept",
    )
    status = read_json(outcome.folder / "status.json")
    assert (status["status"], status["reason"]) == ("failed", "diverged")
    assert len(read_history(outcome.folder)) == outcome.metrics["epochs"] == 1
    assert load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["global_step"] == 10
    assert all(value.isfinite().all() for value in read_weights(outcome.folder, "best").values())


def test_excessive_learning_rate_is_reported(tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, "optimizer=sgd", "optimizer.lr=1e30", cwd=tmp_path)
    assert_mentions(outcome.error, "the loss became", "epoch 1", "optimizer.lr", "; no epoch is kept yet")
    assert not list(outcome.folder.rglob("*.ckpt"))
    assert read_json(outcome.folder / "status.json")["reason"] == "diverged"


def test_user_class_error_keeps_traceback(tmp_path: Path) -> None:
    """An error in the user's own class is raised as it is, and the log has its traceback."""
    (tmp_path / "faulty.py").write_text(FLAWED.replace('float("nan") if bad', "1 / 0 if bad"))
    with pytest.raises(ZeroDivisionError):
        run("src.train", *BARE, "model._target_=faulty.Flawed", "name=faulty", "trainer.max_epochs=5", cwd=tmp_path)
    folder = tmp_path / "outputs" / "runs" / "faulty"
    status = read_json(folder / "status.json")
    assert (status["status"], status["message"]) == ("failed", "ZeroDivisionError: division by zero")
    assert "in training_step" in (folder / "train.log").read_text()
    assert read_json(folder / "metrics.json")["epochs"] == 1
