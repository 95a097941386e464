"""python -m src.predict on rows of a table: they are encoded as those of the training were."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.inference.tables import TableReader
from tests.command_line import load_checkpoint, read_json, run, train_bare
from tests.data.test_table import make_wine, write_table
from tests.inference.test_predict import predict

HEADER = "alcohol,acidity,colour,quality"


@pytest.fixture(scope="module")
def cellar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on a table of wines."""
    cwd = tmp_path_factory.mktemp("cellar")
    table = write_table(cwd / "wine.csv", HEADER, make_wine(60))
    settings = ("data=table", f"data.file={table}", "data.target=quality", "trainer.max_epochs=2")
    train_bare("model=mlp", *settings, "name=wines", cwd=cwd)
    return cwd


def read_probabilities(path: Path) -> list[list[float]]:
    """The classes' probabilities of each row in a JSON file of predictions, by the classes' names."""
    rows: Any = read_json(path)
    return [[each["probability"] for each in sorted(row["top"], key=lambda each: each["class"])] for row in rows]


def test_rows_are_encoded_as_in_training(cellar: Path) -> None:
    """The file's rows get the predictions that they get as samples of the run, whatever the order of their columns."""
    shuffled = [f"{colour},{quality},{acidity},{alcohol}" for alcohol, acidity, colour, quality in make_wine(60)]
    (cellar / "new.csv").write_text("\n".join(["colour,remark,acidity,alcohol", *shuffled]))
    predict("run=outputs/runs/wines", "new.csv", "top=3", "out=new.json", cwd=cellar)
    new, known = read_probabilities(cellar / "new.json"), []
    assert len(new) == 60
    for split in ("train", "val", "test"):
        predict("run=outputs/runs/wines", f"split={split}", "top=3", "out=known.json", cwd=cellar)
        known += read_probabilities(cellar / "known.json")
    torch.testing.assert_close(torch.tensor(sorted(known)), torch.tensor(sorted(new)))


def test_rows_come_from_standard_input(cellar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(b"alcohol,acidity,colour\n10,5,white\n12,,pink\n"))
    monkeypatch.setattr(sys, "stdin", text)
    predict("run=outputs/runs/wines", "-", "out=piped.json", cwd=cellar)
    rows: Any = read_json(cellar / "piped.json")
    assert [row["input"] for row in rows] == ["standard input, row 1", "standard input, row 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("alcohol,acidity\n10,5\n", "there is no column colour: there are alcohol, acidity"),
        ("alcohol,acidity,colour\nstrong,5,red\n", "column alcohol has words, such as strong, and was one of numbers"),
    ],
)
def test_other_columns_are_named(content: str, message: str, cellar: Path) -> None:
    (cellar / "other.csv").write_text(content)
    outcome = run("src.predict", "run=outputs/runs/wines", "other.csv", cwd=cellar)
    assert outcome.code == 1 and outcome.error == f"error: other.csv: {message}"


def test_damaged_encoding_is_refused(cellar: Path) -> None:
    checkpoint = load_checkpoint(cellar / "outputs/runs/wines/checkpoints/last.ckpt")
    options = checkpoint["data_description"]["preprocessing"]["options"]
    (width,) = checkpoint["data_description"]["in_shape"]
    assert torch.equal(
        TableReader(options, width).read(cellar / "wine.csv")[:, -3:].sum(dim=1), torch.ones(60)
    )  # one colour each
    for change in ({"std": 0.0}, {"mean": "x"}, {"name": 5}):
        with pytest.raises(InputError, match="the checkpoint is damaged"):
            TableReader({**options, "columns": [{**options["columns"][0], **change}]}, 1)
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        TableReader({"columns": [7]}, 1)
    with pytest.raises(InputError, match="does not fit its network"):
        TableReader(options, width + 1)
