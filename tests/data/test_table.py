import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.core.errors import InputError
from src.data.table import Table
from src.data.tables.encoding import ColumnEncoder
from src.data.tables.reading import read_columns
from tests.command_line import evaluate, read_weights, run, train, train_bare

COLOURS = ("white", "red", "rosé")


def write_table(path: Path, header: str, rows: list[Any], delimiter: str = ",") -> Path:
    """A CSV file of rows of cells."""
    lines = [header.replace(",", delimiter), *(delimiter.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_wine(count: int = 90) -> list[tuple[Any, ...]]:
    """Rows of three wines, whose alcohol and colour tell the quality; every tenth acidity is missing."""
    rng = np.random.default_rng(0)
    return [
        (
            f"{10 + 2 * (row % 3) + row / 1000:.3f}",
            "" if row % 10 == 9 else f"{rng.normal(5, 2):.3f}",
            COLOURS[row % 3],
            ("ok", "bad", "good")[row % 3],
        )
        for row in range(count)
    ]


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    return write_table(tmp_path / "wine.csv", "alcohol,acidity,colour,quality", make_wine())


def load(path: Path, target: str = "quality", **settings: Any) -> Any:
    given = {"test_size": 0.2, "val_size": 0.25, "max_categories": 20, "batch_size": 10, "order_seed": 0}
    return Table(**{"file": str(path), "target": target, **given, **settings})


def get_error(path: Path, target: str = "y", **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, target, **settings)
    message = str(caught.value).replace(f"{path}", path.name)
    assert "\n" not in message
    return message


def write_numbers(path: Path, targets: list[Any], **columns: list[Any]) -> Path:
    """A table of a column of random numbers, further columns and the target y."""
    numbers = np.random.default_rng(1).normal(size=len(targets)).round(3)
    rows = list(zip(numbers, *columns.values(), targets, strict=True))
    return write_table(path, ",".join(["x", *columns, "y"]), rows)


# Training


def test_classes_are_learned_perfectly(wine: Path) -> None:
    outcome = train(
        "data=table", f"data.file={wine}", "data.target=quality", "trainer.max_epochs=20", "optimizer.lr=0.01",
        cwd=wine.parent,
    )  # fmt: skip
    assert outcome.metrics["test/acc"] == 1
    assert set(outcome.metrics["test/acc_per_class"]) == {"bad", "good", "ok"}
    assert (
        "note: wine.csv: 90 rows, 3 columns (2 of numbers, 1 of words), target quality: multiclass, 3 classes "
        "(bad, good, ok)" in outcome.text
    )
    assert (outcome.folder / "figures" / "confusion_matrix.png").is_file()


def test_regression_reaches_least_squares(tmp_path: Path) -> None:
    """A network without a hidden layer has the error of the closed form."""
    rng = np.random.default_rng(0)
    inputs = rng.normal([3, -2], [4, 0.1], (200, 2)).round(4)
    targets = (inputs @ [0.5, 10] + rng.normal(0, 0.5, 200)).round(4)
    rows = [(*row, target) for row, target in zip(inputs.tolist(), targets.tolist(), strict=True)]
    path = write_table(tmp_path / "line.csv", "a,b,y", rows)
    data = load(path, "y", val_size=0)
    matrix = torch.hstack([data.train_set.inputs, torch.ones(data.train_set.size, 1)]).double()
    weights = torch.linalg.lstsq(matrix, data.train_set.targets.double()[:, None]).solution
    tested = torch.hstack([data.test_set.inputs, torch.ones(data.test_set.size, 1)]).double() @ weights
    wanted = float((tested.squeeze(1) - data.test_set.targets).square().mean())
    outcome = train_bare(
        "data=table", f"data.file={path}", "data.target=y", "data.val_size=0", "model.hidden_size=[]",
        "trainer.max_epochs=60", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0", "data.batch_size=200",
        cwd=tmp_path,
    )  # fmt: skip
    assert outcome.metrics["test/loss"] == pytest.approx(wanted, rel=1e-3)


def test_evaluation_tells_of_changed_file(wine: Path) -> None:
    cwd, settings = wine.parent, ("data=table", f"data.file={wine}", "data.target=quality")
    folder = train_bare(*settings, "trainer.max_epochs=2", cwd=cwd).folder
    outcome = evaluate(f"run={folder}", "split=test", cwd=cwd)
    assert "has changed" not in outcome.text
    rows = make_wine()
    rows[0] = ("10.5", *rows[0][1:])
    write_table(wine, "alcohol,acidity,colour,quality", rows)
    for outcome in (
        evaluate(f"run={folder}", "split=test", cwd=cwd),
        train(f"resume={folder}", "trainer.max_epochs=3", cwd=cwd),
    ):
        assert outcome.text.count("wine.csv has changed since this run was trained") == 1


def test_resumed_run_equals_straight_run(wine: Path) -> None:
    cwd, settings = wine.parent, ("data=table", f"data.file={wine}", "data.target=quality")
    straight = train_bare(*settings, "trainer.max_epochs=4", "name=straight", cwd=cwd).folder
    stopped = train_bare(*settings, "trainer.max_epochs=2", "name=stopped", cwd=cwd).folder
    train(f"resume={stopped}", "trainer.max_epochs=4", cwd=cwd)
    one, other = read_weights(straight), read_weights(stopped)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_stack_equals_single_runs(wine: Path) -> None:
    cwd = wine.parent
    settings = ("data=table", f"data.file={wine}", "data.target=quality", "trainer.max_epochs=3", "seed=0,1", "-m")
    results = []
    for launcher in ("local", "vectorized"):
        outcome = train_bare(*settings, f"hydra/launcher={launcher}", f"name={launcher}", cwd=cwd)
        jobs = sorted((cwd / "outputs/sweeps" / launcher).glob("*/metrics.json"))
        assert len(jobs) == 2, outcome.text
        results.append([json.loads(path.read_text())["test/loss"] for path in jobs])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


# Encoding


def test_statistics_are_those_of_training_rows(wine: Path) -> None:
    """Numbers are standardised, empty cells filled and marked, and words one-hot, by the training rows."""
    data, acidity = load(wine), {row[0]: row[1] for row in make_wine()}
    names, inputs = data.encoder.feature_names, data.train_set.inputs.T.double().numpy()
    assert names[:3] == ["alcohol", "acidity", "acidity is missing"]
    assert names[3:] == ["colour = red", "colour = rosé", "colour = white"]
    alcohol = data.encoder.columns[0]
    values = inputs[0] * alcohol.std + alcohol.mean
    assert alcohol.mean == pytest.approx(values.mean()) and alcohol.std == pytest.approx(values.std(), rel=1e-5)
    present = np.array([float(acidity[f"{value:.3f}"] or "nan") for value in values])
    numbers = present[~np.isnan(present)]
    expected = (np.where(np.isnan(present), np.median(numbers), present) - numbers.mean()) / numbers.std()
    np.testing.assert_allclose(inputs[1], expected, rtol=0, atol=1e-5)
    np.testing.assert_equal(inputs[2], np.isnan(present))
    assert 0 < inputs[2].sum() < len(present)
    np.testing.assert_equal(inputs[3:].T, np.eye(3)[data.train_set.targets])  # bad is red, good rosé, ok white


def test_parts_are_stratified_and_disjoint(wine: Path) -> None:
    data = load(wine)
    parts = [data.train_set, data.val_set, data.test_set]
    assert [part.size for part in parts] == [54, 18, 18]
    assert [part.targets.bincount().tolist() for part in parts] == [[18] * 3, [6] * 3, [6] * 3]
    assert len({tuple(row) for part in parts for row in part.inputs[:, :2].tolist()}) == 90
    assert torch.equal(load(wine, order_seed=5).test_set.inputs, data.test_set.inputs)
    assert not torch.equal(load(wine, split_seed=1).test_set.inputs, data.test_set.inputs)


def test_encoder_survives_json(wine: Path) -> None:
    data = load(wine)
    again = ColumnEncoder.from_plain(json.loads(json.dumps(data.encoder.to_plain())))
    assert again == data.encoder
    columns, _ = read_columns(wine, as_words=again.word_columns)
    rows = {tuple(row) for row in again.encode(columns, np.arange(90)).tolist()}
    parts = (data.train_set, data.val_set, data.test_set)
    assert rows == {tuple(row) for part in parts for row in part.inputs.tolist()}


def test_unseen_word_is_all_zero(wine: Path) -> None:
    """A word of the test rows alone is told and sets no input; one that looks like a number is a word as well."""
    rows = [("11", "5", "orange", "ok"), ("12", "", "7", "bad")]
    tested = write_table(wine.parent / "test.csv", "alcohol,acidity,colour,quality", rows)
    data = load(wine, test_file=str(tested))
    assert data.test_set.targets.tolist() == [2, 0] and data.train_set.size + data.val_set.size == 90
    assert data.test_set.inputs[:, 3:].tolist() == [[0, 0, 0]] * 2
    assert data.test_set.inputs[:, 2].tolist() == [0, 1]
    assert "colour: no training row has the test rows' 7, orange" in data.note


def test_rows_with_empty_cells_are_dropped(wine: Path) -> None:
    data = load(wine, missing="drop")
    assert "wine.csv: 81 rows" in data.note and "9 rows with empty cells left out" in data.note
    assert data.in_shape == (5,) and sum(part.size for part in (data.train_set, data.val_set, data.test_set)) == 81


def test_constant_and_ignored_columns_are_left_out(tmp_path: Path) -> None:
    path = write_numbers(tmp_path / "t.csv", [0, 1] * 30, k=[5] * 60, word=["a"] * 60, id=list("abc" * 20))
    data = load(path, "y", ignore="id")
    assert data.encoder.feature_names == ["x"]
    assert "the same in all training rows and so left out: k, word" in data.note and "ignored: id" in data.note


def test_suspicious_columns_are_told(tmp_path: Path) -> None:
    path = write_numbers(tmp_path / "t.csv", [0, 1] * 30, row=list(range(60)), copy=["no", "yes"] * 30)
    note = load(path, "y").note
    assert "row differs in every row" in note and "copy gives the target away: 'data.ignore=[copy]'" in note
    numbers = [round(value, 2) for value in np.linspace(0, 1, 60).tolist()]
    path = write_numbers(tmp_path / "t.csv", numbers, percent=[100 * value for value in numbers])
    assert "percent gives the target away" in load(path, "y").note


# The task


@pytest.mark.parametrize(
    ("targets", "settings", "task", "names"),
    [
        (["no", "yes"], {}, "binary", ("no", "yes")),
        (["b", "c", "a"], {}, "multiclass", ("a", "b", "c")),
        ([10, 9, 2], {}, "multiclass", ("2", "9", "10")),
        ([0, 1], {}, "binary", ("0", "1")),
        ([0.5, 1.5], {}, "regression", ()),
        (range(60), {}, "regression", ()),
        ([10, 9, 2], {"task": "regression"}, "regression", ()),
        ([0, 1], {"task": "multiclass"}, "multiclass", ("0", "1")),
        ([0.5, 1.5], {"task": "binary"}, "binary", ("0.5", "1.5")),
    ],
)
def test_task_follows_target(
    targets: Any, settings: dict[str, Any], task: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    values = (list(targets) * 60)[:60]
    data = load(write_numbers(tmp_path / "t.csv", values), "y", **settings)
    assert (data.task, data.class_names, data.num_classes) == (task, names, len(names))
    found = torch.cat([data.train_set.targets, data.val_set.targets, data.test_set.targets]).tolist()
    assert sorted(found) == sorted(names.index(str(value)) if names else value for value in values)


@pytest.mark.parametrize(
    ("targets", "settings", "told"),
    [
        (["a", "b"], {}, ("regression", (), ("a", "b"))),
        (["warm", "wet"], {}, ("multilabel", ("warm", "wet"), ())),
        (["wet", "a"], {}, ("regression", (), ("wet", "a"))),
        (["warm", "wet"], {"task": "regression"}, ("regression", (), ("warm", "wet"))),
        (["a"], {}, ("regression", (), ())),
        (["a", "a"], {}, "data.target names the column a twice"),
        (["a", "word"], {}, "target word has words, such as u: regression needs numbers"),
        (["a", "wet"], {"task": "multilabel"},
         "target a has the value 0.1, and a label of data.task=multilabel is 0 or 1"),
        (["warm", "word"], {"task": "multilabel"},
         "target word has the value u, and a label of data.task=multilabel is 0 or 1"),
        (["a", "b"], {"task": "binary"}, "data.task=binary is for one target: 2 are multilabel or regression"),
        ("wet", {"task": "multilabel"}, "data.task=multilabel needs several targets: wet alone is binary"),
        (["warm", "wet"], {"target_unit": 10.0}, "data.target_unit=10 is for regression, and the targets are labels"),
        (["b", "same"], {}, "target same is 1 in every row: there is nothing to learn"),
    ],
)  # fmt: skip
def test_several_targets_are_found(targets: Any, settings: dict[str, Any], told: Any, tmp_path: Path) -> None:
    rows = [(row / 7, row / 10 + 0.1, row**2 % 13 + 0.5, row % 2, row % 3 // 2, "uv"[row % 2], 1) for row in range(60)]
    path = write_table(tmp_path / "t.csv", "x,a,b,warm,wet,word,same", rows)
    if isinstance(told, str):
        assert get_error(path, targets, **settings) == told
        return
    data = load(path, targets, **settings)
    assert (data.task, data.class_names, data.value_names) == told
    places = [("x", "a", "b", "warm", "wet", "word", "same").index(name) for name in targets]
    wanted = sorted([row[place] for place in places] for row in rows)
    found = torch.cat([part.targets for part in (data.train_set, data.val_set, data.test_set)])
    np.testing.assert_allclose(sorted(found.view(60, -1).tolist()), wanted, rtol=1e-6)


def test_regression_can_have_another_unit(tmp_path: Path) -> None:
    prices = list(range(100_000, 160_000, 1000))
    path = write_numbers(tmp_path / "t.csv", prices)
    assert "data.target_unit=100000 divides" in load(path, "y").note
    data = load(path, "y", target_unit=1e5)
    assert "target_unit" not in data.note
    assert data.train_set.targets.min() >= 1 and data.train_set.targets.max() < 1.6


# Reading


@pytest.mark.parametrize(
    ("name", "sign"), [("comma", ","), ("semicolon", ";"), ("tab", "\t"), ("pipe", "|"), ("space", " ")]
)
def test_delimiter_is_found_or_given(name: str, sign: str, wine: Path) -> None:
    wanted, rows = load(wine), [[cell or "NA" for cell in row] for row in make_wine()]
    path = write_table(wine.parent / "other.csv", "alcohol,acidity,colour,quality", rows, sign)
    if sign != " ":
        assert torch.equal(load(path).train_set.inputs, wanted.train_set.inputs)
    columns, _ = read_columns(path, name)
    assert list(columns) == ["alcohol", "acidity", "colour", "quality"]


def test_forms_of_csv_are_read(tmp_path: Path) -> None:
    """A byte-order mark, quotes, a line break in quotes, spaces, empty lines, other line ends, words for nothing."""
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeff"a b", word ,y\r\n\r\n1,"x, ""y""\nz",3\r\n NA ,  w  ,2.5\r\n-1e3,?,1\r\n'.encode())
    columns, digest = read_columns(path)
    assert list(columns) == ["a b", "word", "y"] and len(digest) == 64
    np.testing.assert_equal(columns["a b"].values, [1, np.nan, -1000])
    assert columns["word"].words == ('x, "y"\nz', "w") and columns["word"].values.tolist() == [0, 1, -1]


def test_words_in_later_chunks_are_read(tmp_path: Path) -> None:
    """A column is one of words even if the first word comes after thousands of numbers, which are then words too."""
    cells = [f"{number:02}" for number in range(10)] * 500 + ["x"]
    columns, _ = read_columns(write_table(tmp_path / "t.csv", "a,b", [(cell, 1) for cell in cells]))
    assert columns["a"].words == (*cells[:10], "x")
    assert [columns["a"].words[code] for code in columns["a"].values] == cells


def test_parquet_needs_its_package(wine: Path) -> None:
    """Without pyarrow a Parquet file is refused; with it, a damaged one is."""
    path = wine.parent / "wine.parquet"
    path.write_bytes(b"PAR1 damaged PAR1")
    wanted = "needs the package pyarrow" if find_spec("pyarrow") is None else "cannot be read as a Parquet file"
    assert wanted in get_error(path, "quality")


GOOD = "x,word,y\n" + "".join(f"{row / 7:.3f},{'ab'[row % 2]},{row % 2}\n" for row in range(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: it is empty; a table begins with a line that names its columns"),
        ("\n\n", "t.csv: it is empty; a table begins with a line that names its columns"),
        ("x,y\n", "t.csv: it has no rows below the names of the columns"),
        ("y\n1\n2\n", "t.csv: it has only one column; if it has more give the sign between them: "
         "data.delimiter=semicolon"),
        ("1,2\n3,4\n", "t.csv: its first line must name the columns, and has only numbers"),
        (GOOD + "1,a\n", "t.csv: line 42 has 2 cells, and the first line has 3"),
        ("x,x,y\n1,2,3\n", "t.csv: 2 columns are named x: rename all but one of them"),
        (GOOD + "inf,a,1\n", "t.csv: column x has an infinite number in row 41: correct or empty the cell"),
        (GOOD + '1,"a,1\n', "t.csv cannot be read as CSV: a quote is not closed"),
        ("x,y\n1,\n2,NA\n", "t.csv: the target y has no value in any row"),
        ("x,y\n1,a\n2,a\n", "target y is a in every row: there is nothing to learn"),
        ("x,y\n1,0.5\n2,0.5\n", "target y is 0.5 in every row: there is nothing to learn"),
        (GOOD + "1,a,7\n", "target y: only one row has the class 7, and each needs two or more; take the row out, or "
         "data.task=regression for numbers"),
        ("x,y\n" + "1,a\n1,b\n" * 9, "t.csv: there is no column to learn from: each is the same in all training rows"),
        ("x,y\n" + "1e308,a\n-1e308,b\n" * 9, "column x has numbers up to 1e+308, which are too large"),
    ],
)  # fmt: skip
def test_bad_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert get_error(tmp_path / "t.csv") == message


def test_other_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(GOOD, encoding="utf-16")
    assert get_error(tmp_path / "t.csv") == "t.csv is not UTF-8 text: save it as CSV in UTF-8"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "Y2"}, "data.target=Y2: there is no such column, did you mean y?"),
        ({"target": "nothing"}, "data.target=nothing: there is no such column, there are x, word, y"),
        ({"ignore": ["wrod"]}, "data.ignore=wrod: there is no such column, did you mean word?"),
        ({"ignore": ["y"]}, "data.ignore: y is the target, which cannot be left out"),
        ({"target": "word", "task": "regression"}, "target word has words, such as a: regression needs numbers"),
        ({"target": "x", "task": "binary"}, "data.task=binary: target x has 40 classes, not 2"),
        ({"target_unit": 10.0}, "data.target_unit=10 is for regression, and target y has classes"),
        ({"test_size": 0.01}, "data.test_size=0.01 of 40 rows leaves none to test or to train on"),
        ({"ignore": ["x", "word"]}, "t.csv: there is no column to learn from: data.ignore leaves all of them out"),
        ({"test_size": None}, "data.test_size=0 of 40 rows leaves none to test or to train on"),
        ({"val_size": 1.0}, "data.val_size=1.0 leaves none of 32 samples to train on"),
    ],
)
def test_bad_setting_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(GOOD)
    assert get_error(tmp_path / "t.csv", **settings) == message


def test_dates_and_free_text_are_refused(tmp_path: Path) -> None:
    """All such columns are named at once, with the setting that leaves them out."""
    days = [f"2020-01-{1 + row % 28:02}" for row in range(60)]
    decimals = [f"{row},5" for row in range(60)]
    rows = list(zip(range(60), days, [f"name {row}" for row in range(60)], decimals, [0, 1] * 30, strict=True))
    path = write_table(tmp_path / "t.csv", "id,day,full name,price,y", rows, ";")
    message = get_error(path, ignore=["id"])
    assert "day (dates, such as 2020-01-01), full name (60 different words, such as name 0)" in message
    assert "price (numbers with a decimal comma, such as 0,5: write a point)" in message
    assert "'data.ignore=[id,day,full name,price]'" in message


def test_test_file_must_fit(wine: Path) -> None:
    header, path = "alcohol,acidity,colour,quality", wine.parent / "test.csv"
    for header_, row, message in (
        (header, ("strong", 5, "red", "ok"), "column alcohol has words, such as strong, and was one of numbers"),
        (header, (11, 5, "red", "superb"), "has the class superb, which is none of bad, good, ok"),
        ("alcohol,quality", (11, "ok"), "lacks the columns acidity, colour"),
    ):
        write_table(path, header_, [row])
        message_found = get_error(wine, "quality", test_file=str(path))
        assert message in message_found and "test.csv" in message_found


def test_command_line_refuses_in_one_line(wine: Path) -> None:
    for arguments, message in (
        ((), "data=table needs a file and the column to predict: data.file=FILE.csv data.target=COLUMN"),
        (("data.file=no.csv", "data.target=quality"), "no.csv cannot be read (No such file or directory)"),
        (
            (f"data.file={wine}", "data.target=qualty"),
            "data.target=qualty: there is no such column, did you mean quality?",
        ),
        ((f"data.file={wine}", "data.target=quality", "data.missing=mean"), "data.missing=mean must be median or drop"),
        ((f"data.file={wine}", "data.target=quality", "model=cnn"), "CNN takes images"),
    ):
        assert message in run("src.train", "data=table", *arguments, cwd=wine.parent).error
