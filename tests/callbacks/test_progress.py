import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from src.callbacks.progress import Progress
from tests.training import Given, Recorder, points, quiet_trainer


@pytest.fixture(params=[True, False], ids=["terminal", "elsewhere"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: request.param)
    return bool(request.param)


def test_the_bar_is_for_terminals_alone(terminal: bool) -> None:
    progress = Progress(refresh_rate=1)
    assert progress.is_enabled == terminal
    progress.disable()
    progress.enable()  # as Lightning does for the first of several processes
    assert progress.is_enabled == terminal


def test_the_bar_shows_metrics_without_lightnings_version_number(tmp_path: Path) -> None:
    progress, recorder = Progress(refresh_rate=1), Recorder()
    trainer = quiet_trainer(
        tmp_path, callbacks=[progress], enable_progress_bar=True, logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(recorder, datamodule=Given(points(4, classes=2), points(4, classes=2)))
    trainer.progress_bar_metrics["val/acc"] = 0.5
    assert progress.get_metrics(trainer, recorder) == {"val/acc": 0.5}


def test_the_bar_shows_the_loss_of_the_last_look(tmp_path: Path) -> None:
    progress = Progress(refresh_rate=1)
    trainer = quiet_trainer(tmp_path, callbacks=[progress], enable_progress_bar=True)
    model = Recorder()
    trainer.fit(model, datamodule=Given(points(4, classes=2), points(4, classes=2)))
    model.loss_shown = 0.25  # type: ignore[assignment]
    assert progress.get_metrics(trainer, model) == {"loss": 0.25}
