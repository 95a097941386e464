import hashlib
import http.client
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from src.core.errors import InputError
from src.data.wheat import Wheat, format_canonical, parse_rows
from tests.command_line import BARE, read_json, run, train_bare

PER_CLASS = 20
COUNT = 3 * PER_CLASS
CENTRES = np.array([14.3, 14.3, 0.88, 5.5, 3.2, 2.7, 5.1]) + np.array([[0.0], [4.0], [-2.5]])


def make_lines(count: int = COUNT) -> list[str]:
    """Kernels of three varieties in turn, far apart, in the published file's format."""
    rng = np.random.default_rng(0)
    kernels = np.repeat(CENTRES, count // 3, axis=0) + rng.normal(0, 0.3, (count, 7))
    classes = np.repeat([1, 2, 3], count // 3)
    return ["\t".join([f"{x:.4g}" for x in row] + [str(k)]) for row, k in zip(kernels, classes, strict=True)]


def trust_text(monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """The text, which from now on is the published one."""
    monkeypatch.setattr(Wheat, "sha256", hashlib.sha256(format_canonical(parse_rows(text.encode()))).hexdigest())
    return text


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with 60 kernels, 20 of each variety."""
    folder = tmp_path / "data"
    (folder / "wheat").mkdir(parents=True)
    (folder / "wheat" / "seeds_dataset.txt").write_text(trust_text(monkeypatch, "\n".join(make_lines())))
    return folder


def wheat(root: Path, fold: int = 0, folds: int = 5, **settings: Any) -> Wheat:
    return Wheat(
        root=str(root), folds=folds, fold=fold, **{"batch_size": 10, "val_size": 0.25, "order_seed": 0, **settings}
    )


def set_up(root: Path, fold: int = 0, **settings: Any) -> Any:
    data = wheat(root, fold, **settings)
    data.prepare_data()
    data.setup()
    return data


def get_error(root: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        set_up(root, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def get_kernels(samples: Any) -> set[tuple[float, ...]]:
    return set(map(tuple, samples.inputs.tolist()))


# What is read


def test_checksum_ignores_number_format() -> None:
    """The checksum is that of the numbers, however they are written."""
    published = b"15.26\t14.84\t\t0.871\t1\r\n14.88\t5\t\t2.700\t3\n\n"
    other = b"15.26 14.840 .871 1\n14.88\t5.000\t2.7\t3"
    assert (
        format_canonical(parse_rows(published))
        == format_canonical(parse_rows(other))
        == b"15.26\t14.84\t0.871\t1.0\n14.88\t5.0\t2.7\t3.0\n"
    )


@pytest.mark.parametrize(
    ("old", "new"), [("\t", "\t\t"), ("\n", "\r\n"), ("\n", "\n\n"), ("\t1\n", "\t1\t\n"), ("\t", "   ")]
)
def test_any_white_space_separates_numbers(old: str, new: str, root: Path) -> None:
    first, _ = wheat(root).load()
    path = root / "wheat/seeds_dataset.txt"
    path.write_bytes(path.read_text().replace(old, new).encode())
    again, _ = wheat(root).load()
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)


def test_kernels_match_file(root: Path) -> None:
    """Their classes are counted from 0."""
    rest, tested = wheat(root).load()
    numbers = [torch.hstack([part.inputs, part.targets[:, None] + 1.0]).tolist() for part in (rest, tested)]
    read = {tuple(row) for rows in numbers for row in rows}
    assert read == {tuple(map(float, line.split("\t"))) for line in make_lines()}
    assert rest.targets.dtype == torch.int64


# Folds


@pytest.mark.parametrize("folds", [2, 4, 5, 7, COUNT])
def test_folds_partition_samples(folds: int, root: Path) -> None:
    """Each sample is in the test set of exactly one fold."""
    tested = [get_kernels(wheat(root, fold, folds).load()[1]) for fold in range(folds)]
    assert sum(map(len, tested)) == COUNT
    assert len(set.union(*tested)) == COUNT
    assert {len(part) for part in tested} <= {COUNT // folds, COUNT // folds + 1}


@pytest.mark.parametrize("folds", [2, 4, 5, 7])
@pytest.mark.parametrize("split_seed", [0, 1])
def test_folds_are_stratified(folds: int, split_seed: int, root: Path) -> None:
    """Each part has its share of every class to within one sample."""
    share = PER_CLASS / folds
    for fold in range(folds):
        counts = wheat(root, fold, folds, split_seed=split_seed).load()[1].targets.bincount(minlength=3)
        assert all(abs(count - share) < 1 for count in counts.tolist())


def test_sets_partition_all_samples(root: Path) -> None:
    """Training, validation and test samples are all samples, without overlap."""
    rest, tested = wheat(root, fold=2).load()
    train, val = wheat(root, fold=2).split(rest)
    assert [part.size for part in (train, val, tested)] == [36, 12, 12]
    assert len(get_kernels(train) | get_kernels(val) | get_kernels(tested)) == COUNT
    assert val.targets.bincount().tolist() == tested.targets.bincount().tolist() == [4, 4, 4]


def test_folds_depend_only_on_split_seed(root: Path) -> None:
    folds = get_kernels(wheat(root).load()[1])
    assert get_kernels(wheat(root, order_seed=7, batch_size=3, val_size=0, train_size=0.5).load()[1]) == folds
    assert get_kernels(wheat(root, split_seed=1).load()[1]) != folds


def test_fold_out_of_range_is_refused() -> None:
    for fold in (5, -1):
        with pytest.raises(InputError, match=rf"^data.fold={fold}: with data.folds=5 they are 0 to 4$"):
            wheat(Path(), fold=fold)


def test_more_folds_than_samples_are_refused(root: Path) -> None:
    assert get_error(root, folds=61) == "data.folds=61: there are only 60 samples"


# Standardising


@pytest.mark.parametrize("settings", [{}, {"train_size": 12}, {"val_size": 0}])
def test_features_are_standardised_by_training_samples(settings: dict[str, Any], root: Path) -> None:
    data, raw = set_up(root, **settings), wheat(root, **settings)
    rest, tested = raw.load()
    train, val = raw.split(rest)
    mean, std = train.inputs.mean(dim=0), train.inputs.std(dim=0, correction=0)
    for part, unscaled in ((data.train_set, train), (data.val_set, val), (data.test_set, tested)):
        assert part.inputs.dtype == torch.float32
        torch.testing.assert_close(part.inputs.double(), (unscaled.inputs - mean) / std, rtol=0, atol=1e-5)
        assert torch.equal(part.targets, unscaled.targets)
    everything = torch.cat([rest.inputs, tested.inputs])
    assert (mean - everything.mean(dim=0)).abs().max() > 0.01


def test_constant_features_stay_finite(root: Path) -> None:
    """Features that are equal in all training samples stay finite."""
    data = set_up(root, train_size=1)
    assert data.train_set.inputs.tolist() == [[0.0] * 7]
    assert data.std.tolist() == [1.0] * 7
    assert data.test_set.inputs.isfinite().all()


def test_validation_loss_is_monitored(root: Path) -> None:
    assert wheat(root).monitor == ("val/loss", "min")


# Missing and damaged files


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("14.", "14.1", "its numbers are not those of the published data set"),
        ("\t2\n", "\t3\n", "its numbers are not those of the published data set"),
        ("\t1\n", "\n", "its numbers are not those of the published data set"),
        (make_lines()[0] + "\n", "", "its numbers are not those of the published data set"),
        (make_lines()[1], "area\tperimeter", "line 2 is not all numbers"),
        (make_lines()[2], "\ufeff", "line 3 is not all numbers"),
        ("\n".join(make_lines()), "", "its numbers are not those of the published data set"),
    ],
)
def test_changed_file_is_refused_with_reason(old: str, new: str, reason: str, root: Path) -> None:
    path = root / "wheat/seeds_dataset.txt"
    path.write_text(path.read_text().replace(old, new, 1), encoding="utf-8")
    assert get_error(root) == f"{path}: {reason}; delete it and run again to download it"


def test_loading_names_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wheat lacks seeds_dataset.txt$"):
        wheat(tmp_path).load()


def test_irregular_file_is_refused(tmp_path: Path) -> None:
    """A folder or a pipe in the place of the file is refused by name."""
    path = tmp_path / "wheat/seeds_dataset.txt"
    path.mkdir(parents=True)
    assert get_error(tmp_path) == f"{path} is not a regular file"
    path.rmdir()
    os.mkfifo(path)
    assert get_error(tmp_path) == f"{path} is not a regular file"


def test_only_published_numbers_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "wheat").mkdir()
    (tmp_path / "wheat/seeds_dataset.txt").write_text("\n".join(make_lines(210)))  # well-formed, but made up
    assert "its numbers are not those of the published data set" in get_error(tmp_path)


# Downloading


def publish(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a text be what a download gives."""
    (folder / "published.txt").write_text(text)
    monkeypatch.setattr(Wheat, "url", (folder / "published.txt").as_uri())


def test_missing_file_is_downloaded_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = trust_text(monkeypatch, "\n".join(make_lines()).replace("\t", "\t\t", 9))
    publish(tmp_path, text, monkeypatch)
    assert set_up(tmp_path / "data").test_set.size == 12
    assert (tmp_path / "data/wheat/seeds_dataset.txt").read_text() == text
    assert [path.name for path in (tmp_path / "data/wheat").iterdir()] == ["seeds_dataset.txt"]


def test_invalid_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no file behind."""
    publish(tmp_path, "<html>log in first</html>", monkeypatch)
    assert "cannot be downloaded (line 1 is not all numbers): put seeds_dataset.txt of file:" in get_error(tmp_path)
    assert not (tmp_path / "wheat").exists()


@pytest.mark.parametrize("error", [OSError("no network"), TimeoutError("timed out"), http.client.IncompleteRead(b"")])
def test_offline_error_names_file_and_folder(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the file, its address and where to put it."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", offline)
    assert get_error(tmp_path) == (
        f"Wheat is not in {tmp_path} and cannot be downloaded ({error}): put seeds_dataset.txt of {Wheat.url} into "
        f"{tmp_path / 'wheat'}, or set paths.data=FOLDER (or DATA_DIR) to where wheat/ is"
    )


def test_complete_folder_is_unchanged(root: Path) -> None:
    set_up(root)
    assert [path.name for path in root.iterdir()] == ["wheat"]


def test_unwritable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert get_error(tmp_path / "file/data").startswith(f"data folder {tmp_path / 'file/data'} cannot be written (")


def test_concurrent_starts_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, trust_text(monkeypatch, "\n".join(make_lines())), monkeypatch)
    count, download, downloads = 4, Wheat.download, []
    all_see_it_missing = threading.Barrier(count)

    def lock(path: Path) -> FileLock:
        all_see_it_missing.wait()
        return FileLock(path)

    def downloading(self: Wheat) -> None:
        downloads.append(self.url)
        download(self)

    monkeypatch.setattr("src.data.published.download.FileLock", lock)
    monkeypatch.setattr(Wheat, "download", downloading)
    threads = [threading.Thread(target=wheat(tmp_path / "data").prepare_data) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [Wheat.url]
    assert len(parse_rows((tmp_path / "data/wheat/seeds_dataset.txt").read_bytes())) == COUNT


# On the command line


def test_sweep_over_folds_learns_separable_kernels(root: Path, tmp_path: Path) -> None:
    sweep = ("-m", "hydra/launcher=basic")  # in this process, which takes the small file for the published one
    folds = ("data.folds=3", "data.fold=0,1,2", "trainer.max_epochs=10", "optimizer.lr=0.05")
    outcome = train_bare(*sweep, "data=wheat", f"paths.data={root}", "model.hidden_size=10", *folds, cwd=tmp_path)
    metrics = [read_json(folder / "metrics.json") for folder in outcome.folders]
    assert [each["test/acc"] for each in metrics] == [1.0] * 3
    assert len({each["test/loss"] for each in metrics}) == 3


def test_invalid_fold_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, "data=wheat", f"paths.data={root}", "data.fold=5", cwd=tmp_path)
    assert outcome.error.endswith("data.fold=5: with data.folds=5 they are 0 to 4")
