"""python -m src.export: a run as one file that computes what the run does."""

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.data.mnist import MNIST
from src.data.preprocessing import DataDescription, Preprocessing
from src.inference.exporting.network import ExportedNetwork
from tests.command_line import (
    Outcome,
    evaluate,
    get_small_image_settings,
    read_json,
    read_weights,
    run,
    train_bare,
)
from tests.small_data import write_mnist


def export(*arguments: str, cwd: Path) -> Outcome:
    """``python -m src.export ARGUMENTS``; fails unless it ends well."""
    outcome = run("src.export", *arguments, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome


def predict_split(name: str, cwd: Path) -> list[dict[str, Any]]:
    """What ``src.predict`` says about the validation samples of a run."""
    outcome = run("src.predict", f"run=outputs/runs/{name}", "split=val", "out=all.json", "top=10", cwd=cwd)
    assert outcome.code == 0, outcome.text
    content: Any = read_json(cwd / "all.json")
    return list(content)


def find_difference(outcome: Outcome) -> float:
    found = re.search(r"largest difference from the run: (\S+) on", outcome.out)
    assert found, outcome.text
    return float(found[1])


class Mean(LightningModule):
    """A plain LightningModule: each class's logit is a multiple of the mean of the pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x.view(x.size(0), -1).mean(dim=1, keepdim=True))
        return outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs on images (convolutions, own, neighbours), two numbers (corners), and a value (curve)."""
    cwd = tmp_path_factory.mktemp("export")
    write_mnist(cwd / "data")
    images = [*get_small_image_settings("mnist", cwd / "data"), "trainer.max_epochs=1"]
    train_bare("model=cnn", "name=convolutions", "model.channels=[4,6]", *images, "optimizer.lr=3e-4", cwd=cwd)
    train_bare("~model", f"+model._target_={__name__}.Mean", "name=own", *images, "test=false", cwd=cwd)
    train_bare("model=nearest_neighbor", "name=neighbours", *images, "data.train_size=50", cwd=cwd)
    train_bare("name=corners", "data.noise=0.4", "trainer.max_epochs=2", cwd=cwd)
    train_bare("name=curve", "data=cubic", "trainer.max_epochs=2", cwd=cwd)
    (cwd / "boxes.csv").write_text("a,b,width,height\n" + "".join(f"{i},{i % 7},{i / 9},{i % 5}\n" for i in range(60)))
    boxes = ["data=table", "data.file=boxes.csv", "data.target=[width,height]"]
    train_bare("name=boxes", *boxes, "trainer.max_epochs=2", cwd=cwd)
    return cwd


@pytest.fixture(scope="module")
def exported(place: Path) -> Outcome:
    """The export of the run "convolutions" as ONNX."""
    return export("run=outputs/runs/convolutions", cwd=place)


def read_val_images(cwd: Path) -> np.ndarray:
    """The validation images of the run "convolutions", as the data set holds them: uint8 (N, 1, 28, 28)."""
    data = MNIST(root=str(cwd / "data"), verify=False, val_size=40, batch_size=16)
    data.setup()
    return data.val_set.inputs.numpy()


def test_onnx_repeats_predictions(exported: Outcome, place: Path) -> None:
    """For raw pixels the file gives the probabilities of ``src.predict``, for batches of any size."""
    assert find_difference(exported) < 1e-5
    assert "on 40 validation samples, in batches of 1, 2, 7, 30" in exported.out
    file = place / "outputs/runs/convolutions/export/convolutions.onnx"
    session, images = onnxruntime.InferenceSession(file), read_val_images(place)
    names = [str(number) for number in range(10)]
    wanted = [
        [{each["class"]: each["probability"] for each in row["top"]}[name] for name in names]
        for row in predict_split("convolutions", place)
    ]
    for size in (1, 3, 40):
        found = session.run(["probabilities"], {"inputs": images[:size]})[0]
        assert found.dtype == np.float32 and np.abs(found - np.array(wanted[:size])).max() < 1e-5
    content = file.read_bytes()
    assert str(place).encode() not in content and str(Path(__file__).parents[2]).encode() not in content


def run_code(card: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the code in a card in its folder, and return what the file computes there."""
    code = re.search(r"```python\n(.*?)```", card.read_text(), re.S)
    assert code
    monkeypatch.chdir(card.parent)
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)
    return namespace["outputs"]


def test_card_states_what_is_known(exported: Outcome, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "outputs/runs/convolutions/export/convolutions.onnx.md"
    card, metrics = path.read_text(), read_json(place / "outputs/runs/convolutions/metrics.json")
    assert "160 training, 40 validation, 100 test samples" in card
    assert f"| test/acc | {metrics['test/acc']:.2%} | 100 |" in card
    assert f"| val/loss | {metrics['val/loss']:.4g} | 40 |" in card
    assert f"of {metrics['parameters']:,} parameters" in card
    assert "uint8 (B, 1, 28, 28)" in card and "channels:\n  - 4\n  - 6\n" in card
    assert str(place) not in card
    assert run_code(path, monkeypatch).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "form", "suffix", "width"),
    [
        ("corners", "torch_export", ".pt2", 2),
        ("own", "torchscript", ".pt", 10),
        ("convolutions", "safetensors", ".safetensors", 10),
        ("curve", "torchscript", ".pt", 1),
        ("curve", "safetensors", ".safetensors", 1),
        ("boxes", "torchscript", ".pt", 2),
    ],
)
def test_code_in_card_reads_file(
    name: str, form: str, suffix: str, width: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file repeats the run's outputs, and the code in the card runs where the file is."""
    outcome = export(f"run=outputs/runs/{name}", f"format={form}", f"out={tmp_path}/some{suffix}", cwd=place)
    assert find_difference(outcome) < 1e-5
    assert run_code(tmp_path / f"some{suffix}.md", monkeypatch).shape == (1, width)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"some{suffix}", f"some{suffix}.md"]


class Scores(LightningModule):
    """Returns what it is given, as classes of each pixel or of the sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Letters(LightningModule):
    """The mean of the tokens' embeddings, which only whole numbers have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.embedding(x).mean(dim=1)
        return outputs


@pytest.mark.parametrize(
    ("task", "shape", "expected"),
    [("multilabel", (3,), torch.sigmoid), ("dense", (3, 2, 2), lambda outputs: outputs.softmax(dim=1))],
)
def test_each_task_has_probabilities(task: str, shape: tuple[int, ...], expected: Any) -> None:
    network = ExportedNetwork(Scores(), DataDescription(task, shape, ("a", "b", "c"), None), None)
    scores = torch.randn(4, *shape)
    assert torch.equal(network(scores), expected(scores))


def test_tokens_stay_whole_numbers() -> None:
    description = DataDescription("multiclass", (5,), ("a", "b"), Preprocessing("values"), num_tokens=9)
    network, tokens = ExportedNetwork(Letters(), description, "logits"), torch.randint(9, (4, 5))
    assert network.input_type == torch.int64
    assert torch.equal(network(tokens), network.network(tokens))


def test_weights_keep_names_and_description(place: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    export("run=outputs/runs/convolutions", "format=safetensors", f"out={tmp_path}/w.safetensors", cwd=place)
    weights = read_weights(place / "outputs/runs/convolutions", "best")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
        about = json.loads(file.metadata()["thunderhead"])
    assert (about["task"], about["in_shape"], about["model"]["channels"]) == ("multiclass", [1, 28, 28], [4, 6])
    assert len(about["preprocessing"]["mean"]) == 1


def test_logits_are_asked_for(place: Path, tmp_path: Path) -> None:
    """Two classes have one logit, or two probabilities."""
    request = ("run=outputs/runs/corners", "format=torchscript")
    export(*request, "output=logits", f"out={tmp_path}/a.pt", cwd=place)
    export(*request, f"out={tmp_path}/b.pt", cwd=place)
    points = torch.randn(5, 2)
    logits, both = (torch.jit.load(tmp_path / name)(points) for name in ("a.pt", "b.pt"))
    assert torch.allclose(both[:, 1:], logits.sigmoid(), atol=1e-6) and torch.allclose(both.sum(dim=1), torch.ones(5))


def test_integer_weights_tell_their_cost(place: Path, tmp_path: Path) -> None:
    outcome = export("run=outputs/runs/convolutions", "int8=true", f"out={tmp_path}/small.onnx", cwd=place)
    cost = re.search(
        r"8-bit weights: (\S+) MB instead of (\S+) MB, val/acc (\S+)% instead of (\S+)% on 40 validation", outcome.out
    )
    assert cost
    small, large, after, before = map(float, cost.groups())
    assert small < large / 2
    measured = evaluate("run=outputs/runs/convolutions", cwd=place)
    assert f"val/acc {before:.2f}%" in measured.out
    file = tmp_path / "small.onnx"
    found = onnxruntime.InferenceSession(file).run(None, {"inputs": read_val_images(place)})[0]
    targets = [int(row["target"]) for row in predict_split("convolutions", place)]
    assert (found.argmax(axis=1) == targets).mean() * 100 == pytest.approx(after)
    largest = sorted(onnx.load(file).graph.initializer, key=lambda each: math.prod(each.dims))[-3:]
    assert {each.data_type for each in largest} == {onnx.TensorProto.UINT8}
    assert cost[0] in (tmp_path / "small.onnx.md").read_text()


def test_missing_data_are_replaced_by_random(place: Path, tmp_path: Path) -> None:
    """Without its data a run is compared on random inputs, nothing is downloaded, and both are told."""
    request = ("run=outputs/runs/convolutions", "format=torchscript", f"out={tmp_path}/a.pt")
    outcome = export(*request, f"paths.data={tmp_path}/none", cwd=place)
    assert "note: random inputs are compared" in outcome.out and "on 1,000 random inputs" in outcome.out
    assert find_difference(outcome) < 1e-5
    card = (tmp_path / "a.pt.md").read_text()
    assert "the numbers of samples are unknown" in card and re.search(r"\| test/acc \| \S+ \| unknown \|", card)
    assert not (tmp_path / "none").exists()


def test_file_that_differs_is_not_kept(place: Path, tmp_path: Path) -> None:
    request = ("run=outputs/runs/convolutions", "format=torch_export", f"out={tmp_path}/a.pt2")
    outcome = run("src.export", *request, "tolerance=0", cwd=place)
    assert "the exported file is not kept, since it differs from the run by" in outcome.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=onx"], "format=onx: there is no such format, did you mean onnx?"),
        (["format=state_dict"], "did you mean safetensors?"),
        (["run=nowhere"], "run=nowhere: no run there"),
        (["out=no/such/a.onnx"], "out=no/such/a.onnx: there is no folder no/such"),
        (["out=a.pt"], "out=a.pt must end in .onnx"),
        (["int8=true", "format=torchscript"], "int8=true is for format=onnx"),
        (["output=logits", "format=safetensors"], "output=logits has no effect"),
        (["run=outputs/runs/curve", "output=probabilities"], "output=probabilities is for classes"),
        (["tolerance=-1"], "tolerance=-1 must be"),
        (["trainer.precision=16-true"], "trainer.precision has no effect in an export"),
        (["run=outputs/runs/neighbours"], "format=onnx cannot hold NearestNeighbor: "),
        (["run=outputs/runs/neighbours", "format=safetensors"], "_extra_state of NearestNeighbor is none"),
        (["checkpoint=no.ckpt"], "no.ckpt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_request_is_refused(arguments: list[str], words: str, place: Path) -> None:
    before = sorted(place.rglob("*"))
    given = arguments if arguments[0].startswith("run=") else ["run=outputs/runs/corners", *arguments]
    assert words in run("src.export", *given, cwd=place).error
    assert sorted(place.rglob("*")) == before


def test_existing_file_is_kept(place: Path, tmp_path: Path) -> None:
    arguments = ("run=outputs/runs/corners", "format=torch_export", f"out={tmp_path}/a.pt2")
    (tmp_path / "a.pt2").write_text("mine")
    assert "exists: overwrite=true replaces it" in run("src.export", *arguments, cwd=place).error
    assert (tmp_path / "a.pt2").read_text() == "mine"
    export(*arguments, "overwrite=true", cwd=place)
    assert (tmp_path / "a.pt2").stat().st_size > 1000


def test_failed_run_needs_checkpoint_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs/runs/corners", tmp_path / "failed")
    status = {"status": "failed", "reason": "diverged", "message": "the loss became NaN"}
    (tmp_path / "failed/status.json").write_text(json.dumps(status))
    arguments = (f"run={tmp_path}/failed", "format=torch_export")
    assert "failed (diverged): checkpoint=best or" in run("src.export", *arguments, cwd=place).error
    export(*arguments, "checkpoint=best", cwd=place)
    assert "The run has not finished: failed" in (tmp_path / "failed/export/failed.pt2.md").read_text()


def test_missing_package_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = run("src.export", "run=outputs/runs/corners", cwd=place).error
    assert "format=onnx needs the package onnxscript, which is not installed" in error and ".[export]" in error
