import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger

from src.callbacks.progress import Progress
from tests.command_line import train
from tests.doubles import BatchCollector, InMemoryDataModule, make_samples, quiet_trainer


@pytest.fixture(params=[True, False], ids=["terminal", "elsewhere"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: request.param)
    return bool(request.param)


def test_bar_is_shown_only_on_terminals(terminal: bool) -> None:
    progress = Progress(refresh_rate=1)
    assert progress.shown == terminal
    progress.disable()
    assert not progress.shown
    progress.enable()  # as Lightning does for the first of several processes
    assert progress.shown == terminal


def test_bar_metrics_omit_version_number(tmp_path: Path) -> None:
    progress, recorder = Progress(refresh_rate=1), BatchCollector()
    trainer = quiet_trainer(
        tmp_path, callbacks=[progress], enable_progress_bar=True, logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(recorder, datamodule=InMemoryDataModule(make_samples(4, classes=2), make_samples(4, classes=2)))
    trainer.progress_bar_metrics["val/acc"] = 0.5
    assert progress.get_metrics(trainer, recorder) == {"val/acc": 0.5}


def test_bar_shows_last_logged_loss(tmp_path: Path) -> None:
    progress = Progress(refresh_rate=1)
    trainer = quiet_trainer(tmp_path, callbacks=[progress], enable_progress_bar=True)
    model = BatchCollector()
    trainer.fit(model, datamodule=InMemoryDataModule(make_samples(4, classes=2), make_samples(4, classes=2)))
    model.last_logged_loss = 0.25  # type: ignore[assignment]
    assert progress.get_metrics(trainer, model) == {"loss": 0.25}


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> pytest.CaptureFixture[str]:
    """A terminal; what is written to it can be read."""
    monkeypatch.setattr("src.callbacks.progress._has_screen", lambda: True)
    return capsys


def read_bars(text: str) -> list[tuple[str, str]]:
    """Return each bar that was drawn: its epoch, and how many batches of how many."""
    return [
        (epoch, count.strip()) for epoch, count in re.findall(r"epoch (\S+) \|[^|]*\|([ 0-9]+/[0-9]+) batches", text)
    ]


class UnthrottledProgress(Progress):
    """A bar that is drawn at each update."""

    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self.bar.mininterval = 0


def test_bar_counts_batches_over_all_epochs(tmp_path: Path, screen: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(
        tmp_path, callbacks=[UnthrottledProgress(refresh_rate=1)], enable_progress_bar=True, max_epochs=2
    )
    trainer.fit(
        BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
    )
    bars = read_bars(screen.readouterr().err)
    assert list(dict.fromkeys(bars)) == [
        *[("1/2", f"{count}/6") for count in (0, 1, 2, 3)],
        *[("2/2", f"{count}/6") for count in (3, 4, 5, 6)],
    ]


def test_bar_ends_at_max_steps(tmp_path: Path, screen: pytest.CaptureFixture[str]) -> None:
    """The bar is cleared at the end."""
    trainer = quiet_trainer(
        tmp_path, callbacks=[UnthrottledProgress(refresh_rate=1)], enable_progress_bar=True, max_epochs=-1, max_steps=4
    )
    trainer.fit(
        BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
    )
    text = screen.readouterr().err
    assert read_bars(text)[-1] == ("2/2", "4/4")
    assert text.split("\r")[-1] == "" and not text.split("\r")[-2].strip()  # the line is empty again


@pytest.mark.parametrize(
    ("parts", "steps", "last"), [(2, 3, ("2/2", "5/5")), (2, 4, ("2/2", "6/6")), (1, 7, ("3/3", "7/7")), (1, 99, None)]
)
def test_bar_total_follows_max_steps(
    parts: int, steps: int, last: tuple[str, str] | None, tmp_path: Path, screen: pytest.CaptureFixture[str]
) -> None:
    """The totals are the batches and epochs that max_steps takes, with accumulated gradients too."""
    settings = {"max_epochs": 4, "max_steps": steps, "accumulate_grad_batches": parts}
    trainer = quiet_trainer(
        tmp_path, callbacks=[UnthrottledProgress(refresh_rate=1)], enable_progress_bar=True, **settings
    )
    trainer.fit(
        BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
    )  # three batches
    assert read_bars(screen.readouterr().err)[-1] == (last or ("4/4", "12/12"))


def test_time_left_respects_timer(tmp_path: Path, screen: pytest.CaptureFixture[str]) -> None:
    """The time left is that until the time limit, if it comes first."""
    callbacks = [UnthrottledProgress(refresh_rate=1), Timer(duration={"hours": 1}), StopAfterBatch()]
    trainer = quiet_trainer(tmp_path, callbacks=callbacks, enable_progress_bar=True, max_epochs=10**9)
    trainer.fit(
        BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
    )
    left = re.findall(r"(\S+) left", screen.readouterr().err)
    assert left[-1] in ("59:59", "1:00:00")


class StopAfterBatch(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize(("columns", "names"), [(60, []), (80, ["loss"]), (120, ["loss", "val/acc", "val/loss"])])
def test_bar_shows_only_metrics_that_fit(
    columns: int, names: list[str], tmp_path: Path, screen: pytest.CaptureFixture[str]
) -> None:
    """A metric that does not fit completely is left out."""

    class Measured(UnthrottledProgress):
        def on_train_start(self, *args: Any) -> None:
            super().on_train_start(*args)
            self.bar.dynamic_ncols = lambda file: (columns, 24)

        def get_metrics(self, *args: Any) -> dict[str, Any]:
            return {"loss": 0.0001235, "val/acc": 1.0, "val/loss": 0.0001235}

    trainer = quiet_trainer(tmp_path, callbacks=[Measured(refresh_rate=1)], enable_progress_bar=True, max_epochs=2)
    trainer.fit(
        BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
    )
    bars = [bar for bar in screen.readouterr().err.split("\r") if "batches" in bar]
    assert all(bar.startswith("epoch ") and len(bar.rstrip()) <= columns for bar in bars)
    shown = re.findall(r"(loss|val/acc|val/loss) (\S+)", bars[-1])
    assert shown == [(name, "1" if name == "val/acc" else "0.0001235") for name in names]


def test_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not Progress(refresh_rate=1).shown
    monkeypatch.setitem(sys.modules, "ipykernel", logging)
    assert Progress(refresh_rate=1).shown


def test_bar_counts_batches_in_chunks(
    tmp_path: Path, screen: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("model=mlp", "data=xor", "callbacks=default", "logger=none", "trainer.max_epochs=2")
    pictures = ("~callbacks.decision_regions", "~callbacks.curves", "~callbacks.samples", "~callbacks.misclassified")
    outcome = train(*overrides, *pictures, "~callbacks.confusion_matrix", "data.train_size=100", cwd=tmp_path)
    assert "steps: in chunks" in (outcome.folder / "train.log").read_text()
    assert {count.split("/")[1] for _, count in read_bars(outcome.err)} == {"20"}


def test_log_lines_do_not_overlap_bar(tmp_path: Path, screen: pytest.CaptureFixture[str]) -> None:
    """Log lines and errors are on lines of their own."""

    class Speaks(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            logging.getLogger("speaker").warning("a word")
            if trainer.global_step == 2:
                raise RuntimeError("the end")

    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    trainer = quiet_trainer(
        tmp_path, callbacks=[UnthrottledProgress(refresh_rate=1), Speaks()], enable_progress_bar=True
    )
    try:
        with pytest.raises(RuntimeError, match="the end"):
            trainer.fit(
                BatchCollector(), datamodule=InMemoryDataModule(make_samples(25, classes=2), make_samples(4, classes=2))
            )
        assert handler.stream is sys.stderr
    finally:
        logging.getLogger().removeHandler(handler)
    text = screen.readouterr().err
    assert len(re.findall(r"\ra word\n", text)) == 2 and text.endswith("\r")
