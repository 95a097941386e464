"""Wheat seeds: seven measurements of each of 210 kernels of three varieties (Charytanowicz et al., 2010).

UCI data set 236. The published file parts some columns by two tabs, copies of it write some numbers
shorter; what must agree are the numbers, so the checksum is taken over these.
"""

import hashlib
import http.client
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.base import Samples, TensorDataModule
from src.data.download import download_once
from src.data.files import is_there, read_file
from src.storage.files import open_atomic

PATIENCE = 30.0  # seconds without an answer until a download is given up


class Wheat(TensorDataModule):
    """Kernels (7,): area, perimeter, compactness, length, width, asymmetry, length of the groove; 3 classes.

    For cross-validation the kernels are parted into folds, each with its share of every class.
    One fold is the test set; training and validation samples come from the others. All are
    standardised, feature by feature, with mean and standard deviation of the training samples alone.

    Args:
        root: the folder that holds all data sets; the file is ``root/wheat/seeds_dataset.txt``.
        folds: how many folds, ≥ 2.
        fold: which of them to test on, 0 to ``folds`` − 1.
        settings: those of `TensorDataModule`; the folds depend on ``split_seed`` alone.
    """

    task = "multiclass"
    in_shape = (7,)
    class_names = ("Kama", "Rosa", "Canadian")
    url = "https://archive.ics.uci.edu/ml/machine-learning-databases/00236/seeds_dataset.txt"
    sha256 = "e188f049f9b1e81e90785c67efae8ed879e276147cf19c5e36db749503983942"  # of `canonical`

    def __init__(self, root: str, folds: int, fold: int, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 <= fold < folds:
            raise InputError(f"data.fold={fold}: with data.folds={folds} they are 0 to {folds - 1}")
        self.root, self.folds, self.fold = Path(root), folds, fold
        self.path = self.root / "wheat" / "seeds_dataset.txt"
        self.mean = self.std = torch.empty(0)

    @property
    def monitor(self) -> tuple[str, str]:
        """The loss: of some 25 validation samples accuracy moves in steps of 4%, and a lucky early epoch could win."""
        return "val/loss", "min"

    def prepare_data(self) -> None:
        """Download the file if it is missing; of several processes that start at once, one does it."""
        download_once(self.root, "wheat", lambda: not is_there(self.path), self.download)

    def download(self) -> None:
        """Fetch the published file, verify it and put it in its place."""
        try:
            with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
                content: bytes = answer.read()
            self.verified(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(
                f"Wheat is not in {self.root} and cannot be downloaded ({error}): put {self.path.name} of {self.url} "
                f"into {self.path.parent}, or set paths.data=FOLDER (or DATA_DIR) to where wheat/ is"
            ) from error
        with open_atomic(self.path) as file:
            file.write(content)

    def verified(self, content: bytes) -> Tensor:
        """A file's content as numbers (N, 8) float64: seven features and the class, 1 to 3.

        Raises:
            ValueError: if it is not the published data set.
        """
        rows = rows_of(content)
        if hashlib.sha256(canonical(rows)).hexdigest() != self.sha256:
            raise ValueError("its numbers are not those of the published data set")
        return torch.tensor(rows, dtype=torch.float64)

    def load(self) -> tuple[Samples, Samples]:
        if not is_there(self.path):
            raise InputError(f"{self.path.parent} lacks {self.path.name}")
        try:
            table = self.verified(read_file(self.path))
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; delete it and start again to download it anew") from error
        samples = Samples(table[:, :-1], table[:, -1].long() - 1)
        tested = self.fold_of(samples.targets) == self.fold
        return samples.take(~tested), samples.take(tested)

    def fold_of(self, targets: Tensor) -> Tensor:
        """Each sample's fold: classes (N,) → (N,), 0 to ``folds`` − 1; dealt out class by class, like cards."""
        if self.folds > len(targets):
            raise InputError(f"data.folds={self.folds}: there are only {len(targets)} samples")
        shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(self.split_seed))
        by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
        folds = torch.empty_like(targets)
        folds[by_class] = torch.arange(len(targets)) % self.folds
        return folds

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            super().setup(stage)
            parts = [part for part in (self.train_set, self.val_set, self.test_set) if part is not None]
            std, self.mean = torch.std_mean(parts[0].inputs, dim=0, correction=0)
            self.std = torch.where(std > 0, std, 1.0)  # of a few samples a feature may all be equal
            self.train_set, self.val_set, self.test_set = map(self.standardised, parts)

    def standardised(self, samples: Samples) -> Samples:
        """Features (N, 7) float64 with mean 0 and standard deviation 1 in training, as float32."""
        return Samples(((samples.inputs - self.mean) / self.std).float(), samples.targets)


def rows_of(content: bytes) -> list[list[float]]:
    """The numbers of a text file, line by line; any white space parts them.

    Raises:
        ValueError: naming the first line that holds anything else.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            rows.append([float(value) for value in line.split()])
        except ValueError as error:
            raise ValueError(f"line {number} is not all numbers") from error
    return [row for row in rows if row]


def canonical(rows: list[list[float]]) -> bytes:
    """Numbers as text in one form only: each as short as it can be, tabs between them, a new line after each row."""
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()
