import torch

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.history import History
from src.models.mlp import MLP
from tests.training import SGD, Given, points, quiet_trainer

ROWS = [{"epoch": epoch, "val/acc": acc} for epoch, acc in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.2))]


def with_rows(rows: list[dict[str, float]]) -> History:
    history = History()
    history.rows = rows
    return history


def test_the_chosen_epoch_is_the_best_and_of_equals_the_last() -> None:
    assert with_rows(ROWS).chosen("val/acc", "max")["epoch"] == 3
    assert with_rows(ROWS).chosen("val/acc", "min")["epoch"] == 4


def test_without_a_monitor_the_last_epoch_is_chosen() -> None:
    assert with_rows(ROWS).chosen(None, "max")["epoch"] == 4


def test_nothing_is_chosen_before_the_first_epoch_has_ended() -> None:
    assert with_rows([]).chosen("val/acc", "max") == {}
    assert with_rows([]).chosen(None, "max") == {}


def test_rows_and_seconds_go_on_from_a_checkpoint() -> None:
    first, second = with_rows(ROWS), History()
    first.seconds_before = 12.5
    second.load_state_dict(first.state_dict())
    assert second.rows == ROWS
    assert second.seconds == 12.5


class Draws(EpochSeed):
    """Notes the first random number of each epoch."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.numbers: list[float] = []

    def on_train_epoch_start(self, *args: object) -> None:
        super().on_train_epoch_start(*args)
        self.numbers.append(torch.rand(()).item())


def draws(tmp_path: object, seed: int) -> list[float]:
    callback = Draws(seed)
    model = MLP(hidden_size=2, activation="relu", dropout=0.0, batch_norm=False, in_shape=[2], num_classes=2,
                task="multiclass", optimizer=SGD)  # fmt: skip
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_epochs=3)
    trainer.fit(model, datamodule=Given(points(8, classes=2), class_names=("a", "b")))
    return callback.numbers


def test_random_numbers_depend_on_the_seed_and_the_epoch_alone(tmp_path: object) -> None:
    first = draws(tmp_path, seed=1)
    torch.rand(100)  # whatever was drawn in between
    assert draws(tmp_path, seed=1) == first
    assert len({*first, *draws(tmp_path, seed=2)}) == 6
