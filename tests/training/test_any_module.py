"""Lightning's modules and data modules as others write them, which know nothing of this project."""

from pathlib import Path
from textwrap import dedent

import pytest

from tests.command_line import (
    BARE,
    evaluate,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    run_process,
    train,
    train_bare,
)

PACKAGE = """
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

class Points(LightningDataModule):
    def __init__(self, batch_size=8):
        super().__init__()
        self.batch_size = batch_size
    def setup(self, stage):
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        self.points = TensorDataset(x, (x.sum(1) > 0).long())
    def train_dataloader(self):
        return DataLoader(self.points, self.batch_size, shuffle=True, generator=torch.Generator().manual_seed(3))
    def val_dataloader(self):
        return DataLoader(self.points, self.batch_size)
    def test_dataloader(self):
        return DataLoader(self.points, self.batch_size)

class Empty(Points):
    def train_dataloader(self):
        return DataLoader(self.points, 8, sampler=[])

class Bare(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(32, 4)), 8, shuffle=True)

class Stream(IterableDataset):
    def __iter__(self):
        return ({"x": torch.randn(4), "y": torch.tensor(i % 2)} for i in range(40))

class Streams(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), 8)
    def val_dataloader(self):
        return [DataLoader(Stream(), 8), DataLoader(Stream(), 8)]

class Net(nn.Linear):
    pass

class AutoEncoder(LightningModule):
    def __init__(self, net: nn.Module, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = net
    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self.net(batch[0]), batch[0])
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)

class Classifier(LightningModule):
    def __init__(self, lr=0.01, dropout=0.5):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))
    def step(self, batch, stage):
        outputs = self.net(batch[0])
        loss = F.cross_entropy(outputs, batch[1])
        self.log(f"{stage}_loss", loss, on_step=stage == "train", on_epoch=True)
        self.log(f"{stage}_acc", (outputs.argmax(1) == batch[1]).float().mean(), on_step=False, on_epoch=True)
        return loss
    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")
    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")
    def test_step(self, batch, batch_idx):
        self.step(batch, "test")
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)

class Late(Classifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    def setup(self, stage):
        self.net(torch.zeros(1, 4))

class Configured(Classifier):
    def __init__(self):
        super().__init__()
        self.net = None
    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

class Lost(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(float("nan")))

class Deeper(Classifier):
    def __init__(self, depth, **settings):
        super().__init__(**settings)

class OfDicts(Classifier):
    def training_step(self, batch, batch_idx):
        return self.step((batch["x"], batch["y"]), "train")
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.step((batch["x"], batch["y"]), "val")

class GAN(LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(2, 4), nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        real, (first, second) = batch[0], self.optimizers()
        fake = self.generator(torch.randn(len(real), 2))
        for optimizer, loss in (
            (first, lambda: F.softplus(-self.critic(fake)).mean()),
            (second, lambda: F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
        self.log("g_loss", self.critic(fake).mean())
    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 0.01) for part in (self.generator, self.critic)]
"""
NET = "net: {_target_: plain.Net, in_features: 4, out_features: 4}"
BORING = "lightning.pytorch.demos.boring_classes"
CHOICES = {
    "model/autoencoder": f"_target_: plain.AutoEncoder\n{NET}",
    "model/deeper": "_target_: plain.Deeper\ndepth: 2\nlr: 0.05",
    "model/boring": f"_target_: {BORING}.BoringModel",
    **{
        f"model/{name.lower()}": f"_target_: plain.{name}"
        for name in ("Classifier", "OfDicts", "GAN", "Lost", "Late", "Configured")
    },
    **{f"data/{name.lower()}": f"_target_: plain.{name}" for name in ("Points", "Empty", "Bare", "Streams")},
    "data/boring": f"_target_: {BORING}.BoringDataModule",
}
TWO = "trainer.max_epochs=2"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "plain.py").write_text(dedent(PACKAGE))
    for name, content in CHOICES.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def make_overrides(project: Path, model: str, data: str) -> list[str]:
    return [f"hydra.searchpath=[file://{project / 'conf'}]", f"model={model}", f"data={data}"]


def test_plain_modules_train_monitored_by_val_loss(project: Path) -> None:
    """A plain LightningModule and data module run unchanged and are monitored by their val_loss."""
    outcome = train(
        *make_overrides(project, "classifier", "points"), "callbacks=early_stopping", "logger=none", TWO, cwd=project
    )
    metrics, rows = outcome.metrics, read_history(outcome.folder)
    assert {*rows[0]} == {"epoch", "val/loss", "val/acc", "train/loss", "train/acc"}  # logged as val_loss, …
    assert (metrics["monitor"], metrics["mode"]) == ("val/loss", "min")
    assert metrics["best"] == min(row["val/loss"] for row in rows) == metrics["test/loss"]  # the same points
    (note,) = [line for line in outcome.text.splitlines() if line.startswith("note: ")]
    assert "no figures of samples (samples, decision_regions, misclassified)" in note
    assert "optimizer and scheduler are Classifier's own: the settings are not used" in note
    assert [path.stem for path in (outcome.folder / "figures").iterdir()] == ["curves"]
    evaluate(f"run={outcome.folder}", "trust=plain", cwd=project)
    assert read_json(outcome.folder / "eval_val.json")["val/loss"] == pytest.approx(metrics["best"])


def test_batch_fractions_are_checked_before_training(project: Path) -> None:
    """A fraction that leaves no batch of a plain data module is refused before training."""
    for stage in ("val", "test"):
        limit = f"trainer.limit_{stage}_batches=0.1"
        error = run(
            "src.train", *BARE, *make_overrides(project, "classifier", "points"), limit, f"name={stage}", cwd=project
        ).error
        assert f"{limit} of 8 {stage} batches is none: give 0.13 or more" in error
        assert not list((project / "outputs" / "runs" / stage).rglob("*.ckpt"))


def test_missing_stages_are_noted_and_skipped(project: Path) -> None:
    """A missing validation or test is noted in one line, and the run does without it."""
    outcome = train_bare(*make_overrides(project, "autoencoder", "bare"), TWO, cwd=project)
    (note,) = [line for line in outcome.text.splitlines() if line.startswith("note: ")]
    assert "no validation (AutoEncoder has no validation_step): the last epoch's weights are kept" in note
    assert "no test (AutoEncoder has no test_step)" in note
    assert outcome.metrics["train/loss"] == read_history(outcome.folder)[-1]["train/loss"] > 0
    assert load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["hyper_parameters"] == {
        "lr": 0.01
    }  # without the network
    error = run("src.eval", f"run={outcome.folder}", "split=test", "trust=plain", cwd=project).error
    assert "has no test: its model has no test_step" in error


@pytest.mark.parametrize(
    ("model", "data"), [("classifier", "points"), ("gan", "bare"), ("ofdicts", "streams"), ("deeper", "points")]
)
def test_resume_with_shuffling_loaders_is_exact(model: str, data: str, project: Path) -> None:
    """A resumed run whose loaders shuffle ends with the weights and history of an uninterrupted one."""
    whole = train_bare(*make_overrides(project, model, data), "trainer.max_epochs=3", cwd=project).folder
    resumed = train_bare(*make_overrides(project, model, data), "trainer.max_epochs=1", cwd=project).folder
    train(f"resume={resumed}", "trainer.max_epochs=3", "trust=plain", cwd=project)
    assert is_identical(read_weights(resumed), read_weights(whole))
    assert read_history(resumed) == read_history(whole)


def test_several_validation_sets_are_measured_separately(project: Path) -> None:
    """Each of several validation sets has its own metrics, and one of them can be the monitor."""
    asked = "monitor=val_loss/dataloader_idx_1"
    outcome = train_bare(*make_overrides(project, "ofdicts", "streams"), asked, TWO, cwd=project)
    rows = read_history(outcome.folder)
    assert outcome.metrics["best"] == min(row["val/loss/dataloader_idx_1"] for row in rows)
    assert all("val/loss/dataloader_idx_0" in row and "train/loss" in row for row in rows)


def test_lightnings_own_example_runs(project: Path) -> None:
    assert train_bare(
        *make_overrides(project, "boring", "boring"), "trainer.limit_train_batches=2", cwd=project
    ).metrics["epochs"]


def test_unmeasured_monitor_ends_the_run(project: Path) -> None:
    """A monitor that is never measured ends the run with an error that names what is measured."""
    error = run(
        "src.train", *BARE, *make_overrides(project, "classifier", "points"), "monitor=val/auc", cwd=project
    ).error
    assert error == (
        "error: monitor=val/auc is never measured; this run measures train/acc, train/loss, val/acc, val/loss"
    )
    error = run(
        "src.train", *BARE, *make_overrides(project, "classifier", "points"), "monitor=train_los", cwd=project
    ).error
    assert "did you mean" not in error
    error = run("src.train", *BARE, *make_overrides(project, "gan", "bare"), "monitor=g_loss", cwd=project).error
    assert error.startswith("error: monitor=g_loss is never measured, did you mean train/g_loss? this run measures")
    asked = ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val_auc", "logger=none")
    error = run("src.train", *make_overrides(project, "classifier", "points"), *asked, cwd=project).error
    assert "monitor=val_auc is never measured; this run measures" in error


def test_always_nan_monitor_selects_no_epoch(project: Path) -> None:
    """If the monitor is NaN in every epoch, the last epoch's weights are kept and a note says so."""
    outcome = train_bare(*make_overrides(project, "lost", "points"), TWO, cwd=project)
    assert "val/loss was NaN in every epoch, so the last epoch's weights are kept, not the best ones" in outcome.out
    assert outcome.metrics["best_epoch"] == 2


@pytest.mark.parametrize("model", ["late", "configured"])
def test_lazily_created_weights_are_supported(model: str, project: Path) -> None:
    """A module may create its weights in setup or configure_model."""
    outcome = train_bare(*make_overrides(project, model, "points"), TWO, cwd=project)
    assert outcome.metrics["parameters"] == (4 + 1) * 8 + (8 + 1) * 2
    evaluate(f"run={outcome.folder}", "trust=plain", cwd=project)
    assert read_json(outcome.folder / "eval_val.json")["val/loss"] == pytest.approx(outcome.metrics["best"])
    train(f"resume={outcome.folder}", "trust=plain", "trainer.max_epochs=3", cwd=project)
    assert outcome.metrics["epochs"] == 3


def test_settings_a_module_lacks_are_refused(project: Path) -> None:
    """A setting without effect on a module is refused, and so is a module without the settings it needs."""
    error = run(
        "src.train", *BARE, *make_overrides(project, "classifier", "points"), "optimizer.lr=0.5", cwd=project
    ).error
    assert "optimizer.lr=0.5 has no effect: plain.Classifier creates its optimizer itself" in error
    error = run("src.train", *BARE, *make_overrides(project, "mlp", "points"), cwd=project).error
    assert "src.models.mlp.MLP needs 'in_shape', 'num_classes', and 'task': give +model.NAME=" in error


def test_data_module_without_batches_is_refused(project: Path) -> None:
    """A data module that yields no batch is refused, and the run leaves no folder."""
    outcome = run("src.train", *BARE, *make_overrides(project, "classifier", "empty"), "name=empty", cwd=project)
    assert outcome.error == "error: Empty gives no batch: there is nothing to train on"
    assert not (project / "outputs" / "runs" / "empty").exists()


def test_last_validation_must_end_the_epoch(project: Path) -> None:
    """A validation interval whose last validation would come before the epoch's end is refused."""
    interval = ("+trainer.val_check_interval=3", "name=interval")
    error = run("src.train", *BARE, *make_overrides(project, "classifier", "points"), *interval, cwd=project).error
    assert "after each 3 of 8 batches the last validation would come before the epoch's end" in error
    assert not (project / "outputs" / "runs" / "interval").exists()


def test_mlp_trains_on_plain_data_module(project: Path) -> None:
    """A model of this project trains on a plain data module if its shape, classes and task are set."""
    told = ("+model.in_shape=[4]", "+model.num_classes=2", "+model.task=binary")
    outcome = train(*make_overrides(project, "mlp", "points"), *told, TWO, "logger=none", cwd=project)
    assert outcome.metrics["best"] == min(row["val/loss"] for row in read_history(outcome.folder))
    assert set(outcome.metrics["test/acc_per_class"]) == {"0", "1"}


def test_ranks_divide_samples_of_plain_loader(project: Path) -> None:
    """Two ranks divide the samples of an ordinary data loader, and each step takes a batch for each rank."""
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=5")
    outcome = run_process(
        "src.train", *BARE, *make_overrides(project, "classifier", "points"), f"+{two[3]}", *two[:3], TWO, cwd=project
    )
    assert outcome.code == 0, outcome.text
    assert "a step takes a batch for each of 2 processes" in outcome.text
    assert (
        load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["global_step"] == 2 * 7
    )  # 64 samples, 5 for each of two
