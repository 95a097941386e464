"""Text of one's own: words become tokens, and a run learns, predicts and is exported from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.core.errors import InputError
from src.data.tables.reading import Column
from src.data.tables.text import TextEncoder, fit_text
from src.data.text import Text
from src.inference.tables import TableReader
from src.models.text import TextNet
from tests.command_line import read_json, read_weights, run, train_bare
from tests.data.test_table import write_table

WORDS = ("story", "town", "scene", "music", "plot", "people")
OPINIONS = (("dull", "awful"), ("superb", "lovely"))


def write_reviews(path: Path, count: int = 200) -> Path:
    """Write texts of six words, of which one says whether the author likes it."""
    rng, rows = np.random.default_rng(0), []
    for index in range(count):
        words = [str(rng.choice(WORDS)) for _ in range(5)]
        words.insert(int(rng.integers(6)), str(rng.choice(OPINIONS[index % 2])))
        rows.append((f'"{" ".join(words).capitalize()}!"', ("no", "yes")[index % 2]))
    return write_table(path, "review,likes", rows)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("reviews")
    write_reviews(cwd / "reviews.csv")
    return cwd


def make_data(cwd: Path, **settings: Any) -> Text:
    given = {"text": "review", "target": "likes", "max_words": 100, "max_length": 50, "test_size": 0.2}
    return Text(file=str(cwd / "reviews.csv"), batch_size=10, val_size=0.2, **{**given, **settings})


SETTINGS = ("data=text", "data.file=reviews.csv", "data.text=review", "data.target=likes", "optimizer.lr=0.01")


def test_reviews_are_learned_and_predicted(reviews: Path) -> None:
    """From a CSV file to predictions for new texts and an export; a resumed run equals a straight one."""
    model = ("model=text", "model.width=16", "model.blocks=1", "model.dropout=0.1")
    straight = train_bare(*SETTINGS, *model, "trainer.max_epochs=8", cwd=reviews)
    first = train_bare(*SETTINGS, *model, "trainer.max_epochs=4", cwd=reviews)
    assert run("src.train", f"resume={first.folder}", "trainer.max_epochs=8", cwd=reviews).code == 0
    one, other = read_weights(first.folder), read_weights(straight.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.metrics["test/acc"] > 0.9
    assert "reviews.csv: 200 rows, texts review (11 words, up to 7 in a text), target likes: binary" in straight.text
    (reviews / "new.csv").write_text('review\n"A lovely, lovely plot"\n"awful town"\nunheard of\n')
    outcome = run("src.predict", f"run={first.folder}", "new.csv", "out=new.json", cwd=reviews)
    assert outcome.code == 0, outcome.text
    assert [row["prediction"] for row in read_json(reviews / "new.json")][:2] == ["yes", "no"]  # type: ignore[index]
    exported = run("src.export", f"run={first.folder}", "format=torchscript", cwd=reviews)
    assert "on 32 validation samples" in exported.text
    card = next(first.folder.glob("export/*.md")).read_text()
    lists = [json.loads(part.split("```")[0]) for part in card.split("```json\n")[1:]]
    encoder = make_data(reviews).encoder
    assert lists == [["no", "yes"], list(encoder.words)]


def test_words_are_those_of_training_rows() -> None:
    """The most frequent words have numbers from 2 on, others are 1, and 0 fills up; long texts are cut."""
    column = Column(np.array([0, 1, 1, 2]), ("Good, good!", "bad film", "a good film so far"))
    encoder = fit_text("review", column, max_words=3, max_length=4)
    assert encoder == TextEncoder("review", ("film", "good", "bad"), 4)
    tokens = encoder.encode({"review": column}, np.array([0, 1, 3]))
    assert tokens.tolist() == [[3, 1, 3, 1], [4, 2, 0, 0], [1, 3, 2, 1]]
    assert TextEncoder.from_plain(encoder.to_plain()) == encoder and encoder.num_tokens == 5
    missing = encoder.encode({"review": Column(np.array([-1]), ())}, np.array([0]))
    assert missing.tolist() == [[0, 0, 0, 0]]


def test_padding_does_not_count() -> None:
    """A text gives the same outputs however far it is filled up, with attention too; an empty one gives numbers."""
    torch.manual_seed(0)
    for blocks in (0, 2):
        net = TextNet(9, 6, 2, width=8, blocks=blocks, heads=2, hidden_size=[5], dropout=0.3).eval()
        text = torch.tensor([[3, 4, 5, 0, 0, 0]])
        filled = net(text)
        if net.positions is not None:
            net.positions.data[3:] = 100.0
        torch.testing.assert_close(net(text), filled)
        assert net(torch.zeros(2, 6, dtype=torch.long)).isfinite().all()
        swapped = net(torch.tensor([[4, 3, 5, 0, 0, 0]]))
        assert torch.allclose(swapped, filled, atol=1e-6) == (blocks == 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": None}, "data=text needs a file, its column of texts"),
        ({"text": "reviews"}, "data.text=reviews: there is no such column, did you mean review"),
        ({"text": "likes"}, "data.text=likes is the target"),
    ],
)
def test_wrong_text_is_one_line(settings: dict[str, Any], message: str, reviews: Path) -> None:
    with pytest.raises(InputError, match=message):
        make_data(reviews, **settings)


def test_cut_texts_are_told(reviews: Path) -> None:
    data = make_data(reviews, max_length=3)
    assert data.in_shape == (3,) and "200 texts cut to 3 words (data.max_length)" in data.note


@pytest.mark.parametrize("change", [{"words": ["a", "a"]}, {"length": 0}, {"name": 5}, {"words": 7}])
def test_damaged_words_are_refused(change: dict[str, Any], reviews: Path) -> None:
    options = make_data(reviews).describe_preprocessing().options
    assert TableReader(options, 7).encoder == make_data(reviews).encoder
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        TableReader({**options, "text": {**options["text"], **change}}, 7)
