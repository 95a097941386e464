"""Several labels, several values, a class per pixel and tokens: against plain PyTorch, and through the commands."""

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.tasks import check_targets
from src.models.base import SupervisedModule
from src.models.mlp import MLP
from src.models.nearest_neighbor import NearestNeighbor
from tests.command_line import evaluate, read_json, read_weights, run, train, train_bare
from tests.data.test_table import write_table
from tests.doubles import SGD, InMemoryDataModule, quiet_trainer, reload_model
from tests.vectorized.test_suited import find_reason

NAMES = ("a", "b", "c")


class Masks(SupervisedModule):
    """A convolution that gives each pixel a class."""

    suited_tasks = ("dense",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = nn.Conv2d(self.in_shape[0], self.out_features, 3, padding=1)


class Words(SupervisedModule):
    """The mean of the tokens' vectors, and a linear layer."""

    takes_tokens = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = nn.Sequential(nn.EmbeddingBag(self.num_tokens, 4), nn.Linear(4, self.out_features))


class Sentences(TensorDataModule):
    """Sequences of five tokens; the class tells whether token 3 occurs."""

    task = "binary"
    in_shape = (5,)
    class_names = ("no", "yes")
    num_tokens = 20

    def load(self) -> tuple[Samples, Samples]:
        tokens = torch.randint(self.num_tokens, (400, 5), generator=torch.Generator().manual_seed(0))
        tokens[::2, 2] = 3
        samples = Samples(tokens, (tokens == 3).any(dim=1).long())
        return samples.take(slice(0, 300)), samples.take(slice(300, 400))


def make_mlp(**settings: Any) -> MLP:
    return MLP(**{"hidden_size": [8], "activation": "tanh", "dropout": 0.0, "batch_norm": False, **settings})


def make_data(task: str, count: int = 30) -> InMemoryDataModule:
    inputs = torch.randn(count, 4)
    if task == "regression":
        data = InMemoryDataModule(Samples(inputs, inputs @ torch.randn(4, 3)), task=task)
        data.value_names = NAMES
        return data
    if task == "multilabel":
        return InMemoryDataModule(Samples(inputs, (inputs[:, :3] > 0).long()), task=task, class_names=NAMES)
    if task == "dense":
        pixels = torch.rand(count, 1, 6, 5)
        return InMemoryDataModule(Samples(pixels, (3 * pixels[:, 0]).long()), task=task, class_names=NAMES)
    data = InMemoryDataModule(Samples(torch.randint(7, (count, 5)), torch.randint(3, (count,))), class_names=NAMES)
    data.num_tokens = 7
    return data


def make_model(data: InMemoryDataModule, **settings: Any) -> SupervisedModule:
    about = {"in_shape": list(data.in_shape), "num_classes": data.num_classes, "task": data.task, "optimizer": SGD}
    about |= {"num_values": data.num_values, "num_tokens": data.num_tokens}
    kind = Masks if data.task == "dense" else Words if data.num_tokens else make_mlp
    return kind(**about, **settings)


LOOPS: dict[str, Any] = {
    "regression": F.mse_loss,
    "multilabel": lambda outputs, targets: F.binary_cross_entropy_with_logits(outputs, targets.float()),
    "dense": F.cross_entropy,
    "multiclass": F.cross_entropy,
}


@pytest.mark.parametrize("task", LOOPS)
def test_steps_equal_plain_loop(task: str, tmp_path: Path) -> None:
    """Losses and weights after two epochs are those of a loop by hand."""
    data = make_data(task)
    model, samples = make_model(data), data.train_set
    assert samples is not None
    net = copy.deepcopy(model.net)
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.1), []
    for _ in range(2):
        for batch in zip(*(part.split(data.batch_size) for part in samples), strict=True):
            optimizer.zero_grad()
            loss = LOOPS[task](net(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, datamodule=data)
    for mine, plain in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-6)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(np.mean(losses[3:]), rel=1e-5)
    assert torch.equal(reload_model(model, tmp_path)(samples.inputs), model(samples.inputs))


def evaluate_outputs(task: str, outputs: Tensor, targets: Tensor, folder: Path) -> tuple[dict[str, float], Any]:
    """The test metrics of a network that returns these outputs, and its confusion."""
    data = make_data(task, len(targets))
    data.test_set = Samples(torch.arange(len(targets)).float().expand(*data.in_shape, -1).movedim(-1, 0), targets)
    model = make_model(data)
    model.forward = lambda x: outputs[x.flatten(1)[:, 0].long()]  # type: ignore[method-assign]
    trainer = quiet_trainer(folder)
    trainer.test(model, datamodule=data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, model.confusion


def test_labels_count_samples_with_all_right(tmp_path: Path) -> None:
    """The accuracy is scikit-learn's: a sample is right if all of its labels are."""
    outputs = torch.tensor([[1.0, -2, 3], [1, 2, -3], [-1, -2, -3], [4, 4, 4]])
    targets = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]])
    metrics, confusion = evaluate_outputs("multilabel", outputs, targets, tmp_path)
    assert metrics["test/acc"] == 0.5
    assert confusion.tolist() == [[[1, 1], [0, 2]], [[2, 2], [0, 0]], [[2, 0], [0, 2]]]
    assert metrics["test/loss"] == pytest.approx(LOOPS["multilabel"](outputs, targets).item())


def test_pixels_have_accuracy_and_iou(tmp_path: Path) -> None:
    outputs = torch.zeros(2, 3, 2, 2)
    outputs[0, 1], outputs[1, 0] = 1, 1  # all pixels of the first image are b, of the second a
    targets = torch.tensor([[[1, 1], [1, 0]], [[0, 0], [0, 0]]])
    metrics, _ = evaluate_outputs("dense", outputs, targets, tmp_path)
    assert metrics["test/acc"] == 7 / 8
    assert metrics["test/iou"] == pytest.approx((4 / 5 + 3 / 4) / 2)  # c does not occur


def test_smoothing_of_labels_is_between_two() -> None:
    data = make_data("multilabel")
    outputs, targets = torch.randn(5, 3), torch.randint(2, (5, 3))
    loss = make_model(data, label_smoothing=0.2).loss(outputs, targets, 0.2)
    wanted = F.binary_cross_entropy_with_logits(outputs, 0.8 * targets + 0.1)
    torch.testing.assert_close(loss, wanted)
    summed = make_model(data, loss="one_vs_rest").loss(outputs, targets)
    torch.testing.assert_close(summed, 3 * make_model(data).loss(outputs, targets))


@pytest.mark.parametrize(
    ("task", "targets", "told"),
    [
        ("multilabel", torch.tensor([[0, 2, 1]]), "multilabel needs targets from 0 to 1, and one of these is 2"),
        ("multilabel", torch.tensor([[0, 1]]), "multilabel needs targets int64 (N, 3), and these are int64 (1, 2)"),
        ("multilabel", torch.ones(1, 3), "multilabel needs targets int64 (N, 3), and these are float32 (1, 3)"),
        ("dense", torch.tensor([1]), "dense needs targets int64 (N, H, W), and these are int64 (1,)"),
        ("dense", torch.full((1, 2, 2), -1), "dense needs targets from 0 to 2, and one of these is -1"),
        ("multiclass", torch.tensor([3]), "multiclass needs targets from 0 to 2, and one of these is 3"),
        ("regression", torch.ones(2, 3), "regression needs targets float32 (N), and these are float32 (2, 3)"),
        ("ranking", torch.ones(2), "ranking is none of multiclass, binary, multilabel, dense, regression"),
    ],
)  # fmt: skip
def test_unsuitable_targets_are_refused(task: str, targets: Tensor, told: str) -> None:
    with pytest.raises(InputError) as caught:
        check_targets(targets, task, 0 if task == "regression" else 3, 1)
    assert str(caught.value) == f"the task {told}"


def test_unsuitable_models_are_refused() -> None:
    about = {"in_shape": [4], "num_classes": 3, "optimizer": SGD}
    for make, settings, told in (
        (
            make_mlp,
            {"task": "dense"},
            "MLP is made for the tasks multiclass, binary, multilabel, regression, and these",
        ),
        (Masks, {"task": "binary"}, "Masks is made for the tasks dense, and these data are binary"),
        (NearestNeighbor, {"task": "multilabel"}, "NearestNeighbor is made for the tasks multiclass, binary, regress"),
        (make_mlp, {"task": "binary", "num_tokens": 9}, "MLP takes numbers, and the inputs of these data are tokens"),
        (Words, {"task": "binary"}, "Words takes tokens, and the inputs of these data are numbers"),
        (
            make_mlp,
            {"task": "multilabel", "loss": "cross_entropy"},
            "model.loss=cross_entropy does not suit multilabel",
        ),
    ):
        with pytest.raises(InputError) as caught:
            make(**about, **settings)
        assert str(caught.value).startswith(told)


def test_outputs_of_other_width_are_refused() -> None:
    """Torch would repeat a single output to the width of the targets."""
    model = make_model(make_data("regression"))
    with pytest.raises(InputError, match=r"the network's outputs \(2, 1\) do not fit the targets \(2, 3\)"):
        model.loss(torch.zeros(2, 1), torch.zeros(2, 3))


def test_values_need_a_model_for_them(table: Path) -> None:
    outcome = run("src.train", *SETTINGS, "data.target=[a,b]", "model=nearest_neighbor", cwd=table)
    assert outcome.error == "error: NearestNeighbor takes no num_values, and these data have 2: choose another model"


# Through the commands

SETTINGS = ("data=table", "data.file=table.csv", "trainer.max_epochs=3", "data.batch_size=16")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of two inputs, two values and two labels."""
    cwd, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    x = rng.normal(size=(120, 2)).round(3)
    rows = [(*row, *(row @ [[1, 2], [-1, 3]]).round(3), int(row[0] > 0), int(row.sum() > 0)) for row in x]
    write_table(cwd / "table.csv", "x,y,a,b,warm,wet", rows)
    return cwd


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_table_of_several_values(table: Path) -> None:
    """Training, evaluation and predictions agree, with one column for each value."""
    outcome = train("name=values", *SETTINGS, "data.target=[a,b]", "data.ignore=[warm,wet]", cwd=table)
    assert "targets a, b: regression" in outcome.text
    measured = evaluate("run=outputs/runs/values", "split=test", cwd=table).text
    assert f"test/loss {outcome.metrics['test/loss']:.4g}" in measured
    run("src.predict", "run=outputs/runs/values", "split=test", "out=values.csv", cwd=table)
    rows = read_rows(table / "values.csv")
    assert list(rows[0]) == ["input", "target_a", "target_b", "prediction_a", "prediction_b"]
    errors = [(float(row[f"prediction_{name}"]) - float(row[f"target_{name}"])) ** 2 for row in rows for name in "ab"]
    assert outcome.metrics["test/loss"] == pytest.approx(np.mean(errors), rel=1e-5)
    run("src.predict", "run=outputs/runs/values", "table.csv", "out=values.json", cwd=table)
    predictions: Any = read_json(table / "values.json")
    assert len(predictions) == 120 and list(predictions[0]["prediction"]) == ["a", "b"]


def test_table_of_labels(table: Path) -> None:
    """Columns of 0 and 1 are labels; the run is measured, drawn and predicted with them."""
    figure = "+callbacks.class_accuracy._target_=src.callbacks.figures.per_class.ClassAccuracy"
    outcome = train(
        "name=labels", *SETTINGS, "data.target=[warm,wet]", "data.ignore=[a,b]", "optimizer.lr=0.03", figure, cwd=table
    )
    assert "targets warm, wet: multilabel" in outcome.text and outcome.metrics["monitor"] == "val/acc"
    assert {path.stem for path in (outcome.folder / "figures").iterdir()} == {"curves", "class_accuracy"}
    predicted = run("src.predict", "run=outputs/runs/labels", "split=test", "out=labels.csv", cwd=table)
    assert f"test/acc {outcome.metrics['test/acc']:.2%} of 24 samples" in predicted.text
    rows = read_rows(table / "labels.csv")
    assert list(rows[0]) == ["input", "target", "prediction", "probability_warm", "probability_wet"]
    assert np.mean([row["target"] == row["prediction"] for row in rows]) == pytest.approx(outcome.metrics["test/acc"])
    warm = np.mean([("warm" in row["target"]) == (float(row["probability_warm"]) > 0.5) for row in rows])
    assert outcome.metrics["test/acc_per_class"]["warm"] == pytest.approx(warm)


def test_tokens_stay_whole_numbers(tmp_path: Path) -> None:
    """Tokens are learned in chunks and one by one to the same weights, evaluated, and predicted from a file."""
    for name, content in (("model/words", "Words"), ("data/sentences", "Sentences\nbatch_size: 10\nval_size: 100")):
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"_target_: {__name__}.{content}")
    settings = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "model=words", "data=sentences", "optimizer.lr=0.03"]
    together, alone = (
        train_bare(*settings, "trainer.max_epochs=8", *more, cwd=tmp_path)
        for more in (["name=together"], ["name=alone", "trainer.log_every_n_steps=1"])
    )
    one, other = read_weights(together.folder), read_weights(alone.folder)
    assert "steps: one by one" in (alone.folder / "train.log").read_text()
    assert "steps: one by one" not in (together.folder / "train.log").read_text()
    assert one and all(torch.equal(one[name], other[name]) for name in one)
    assert together.metrics["test/acc"] > 0.9
    (tmp_path / "new.csv").write_text("3,3,3,3,3\n1,2,4,5,6\n")
    run("src.predict", "run=outputs/runs/together", "new.csv", "out=new.json", "trust=tests", cwd=tmp_path)
    assert [row["prediction"] for row in read_json(tmp_path / "new.json")] == ["yes", "no"]  # type: ignore[index]
    (tmp_path / "new.csv").write_text("3,3,3,3,20\n")
    outcome = run("src.predict", "run=outputs/runs/together", "new.csv", "trust=tests", cwd=tmp_path)
    assert outcome.error == "error: inputs must be tokens, whole numbers from 0 to 19, and these are none"


def test_stacks_leave_several_targets_to_runs(table: Path) -> None:
    for targets, told in (("[a,b]", "a regression of 2 values"), ("[warm,wet]", "the task multilabel")):
        assert find_reason("data=table", "data.file=table.csv", f"data.target={targets}", cwd=table) == told
