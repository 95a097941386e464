"""Wheat seeds: seven measurements of each of 210 kernels of three varieties (Charytanowicz et al., 2010).

UCI data set 236. The published file separates some columns by two tabs, and copies of it write some numbers shorter.
Only the numbers must agree, so the checksum is computed from them and not from the file.
"""

import hashlib
import http.client
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.preprocessing import VALUES, Preprocessing, flatten_numbers
from src.data.published.download import download_once
from src.data.published.files import is_present, read_file
from src.storage.files import open_atomic

DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer before a download fails


class Wheat(TensorDataModule):
    """Kernels (7,): area, perimeter, compactness, length, width, asymmetry, length of the groove; 3 classes.

    For cross-validation the kernels are split into folds, stratified by class. One fold is the test
    set; training and validation samples come from the others. All samples are standardised, feature
    by feature, with mean and standard deviation of the training samples only.

    Args:
        root: the folder that holds all data sets; the file is ``root/wheat/seeds_dataset.txt``.
        folds: the number of folds, ≥ 2.
        fold: the index of the fold to test on, 0 to ``folds`` − 1.
        settings: those of `TensorDataModule`; the folds depend on ``split_seed`` only.
    """

    task = "multiclass"
    in_shape = (7,)
    class_names = ("Kama", "Rosa", "Canadian")
    url = "https://archive.ics.uci.edu/ml/machine-learning-databases/00236/seeds_dataset.txt"
    sha256 = "e188f049f9b1e81e90785c67efae8ed879e276147cf19c5e36db749503983942"  # of `format_canonical`

    def __init__(self, root: str, folds: int, fold: int, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 <= fold < folds:
            raise InputError(f"data.fold={fold}: with data.folds={folds} they are 0 to {folds - 1}")
        self.root, self.folds, self.fold = Path(root), folds, fold
        self.path = self.root / "wheat" / "seeds_dataset.txt"
        self.mean = self.std = torch.empty(0)

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that selects the best epoch, and its direction: the loss."""
        # With about 25 validation samples accuracy moves in steps of 4%, and a lucky early epoch could win.
        return "val/loss", "min"

    def prepare_data(self) -> None:
        """Download the file if it is missing; if several processes start at once, only one downloads."""
        download_once(self.root, "wheat", lambda: not is_present(self.path), self.download)

    def download(self) -> None:
        """Download the published file, verify it and store it.

        Raises:
            InputError: if the download fails, or the content is not the published data set.
        """
        try:
            with urllib.request.urlopen(self.url, timeout=DOWNLOAD_TIMEOUT) as answer:
                content: bytes = answer.read()
            self.verify_content(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(
                f"Wheat is not in {self.root} and cannot be downloaded ({error}): put {self.path.name} of {self.url} "
                f"into {self.path.parent}, or set paths.data=FOLDER (or DATA_DIR) to where wheat/ is"
            ) from error
        with open_atomic(self.path) as file:
            file.write(content)

    def verify_content(self, content: bytes) -> Tensor:
        """Return a file's content as numbers (N, 8) float64: seven features and the class, 1 to 3.

        Raises:
            ValueError: if it is not the published data set.
        """
        rows = parse_rows(content)
        if hashlib.sha256(format_canonical(rows)).hexdigest() != self.sha256:
            raise ValueError("its numbers are not those of the published data set")
        return torch.tensor(rows, dtype=torch.float64)

    def load(self) -> tuple[Samples, Samples]:
        if not is_present(self.path):
            raise InputError(f"{self.path.parent} lacks {self.path.name}")
        try:
            table = self.verify_content(read_file(self.path))
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; delete it and run again to download it") from error
        samples = Samples(table[:, :-1], table[:, -1].long() - 1)
        is_test = self.draw_folds(samples.targets) == self.fold
        return samples.take(~is_test), samples.take(is_test)

    def draw_folds(self, targets: Tensor) -> Tensor:
        """Return each sample's fold, drawn at random and stratified by class: (N,) → (N,), 0 to ``folds`` − 1."""
        if self.folds > len(targets):
            raise InputError(f"data.folds={self.folds}: there are only {len(targets)} samples")
        shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(self.split_seed))
        by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
        # Sorted by class, the shuffled samples are dealt to the folds in turn, like cards.
        folds = torch.empty_like(targets)
        folds[by_class] = torch.arange(len(targets)) % self.folds
        return folds

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            super().setup(stage)
            parts = [part for part in (self.train_set, self.val_set, self.test_set) if part is not None]
            std, self.mean = torch.std_mean(parts[0].inputs, dim=0, correction=0)
            self.std = torch.where(std > 0, std, 1.0)  # a feature may be constant over a few samples
            self.train_set, self.val_set, self.test_set = map(self.standardize_samples, parts)

    def describe_preprocessing(self) -> Preprocessing:
        """Return how seven measurements become a network's input."""
        return Preprocessing(VALUES, flatten_numbers(self.mean), flatten_numbers(self.std))

    def standardize_samples(self, samples: Samples) -> Samples:
        """Return features (N, 7) float64 as float32, with mean 0 and standard deviation 1 in training."""
        return Samples(((samples.inputs - self.mean) / self.std).float(), samples.targets)


def parse_rows(content: bytes) -> list[list[float]]:
    """Return the numbers of a text file, line by line; any white space separates them.

    Raises:
        ValueError: if a line has anything else; names the first such line.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            rows.append([float(value) for value in line.split()])
        except ValueError as error:
            raise ValueError(f"line {number} is not all numbers") from error
    return [row for row in rows if row]


def format_canonical(rows: list[list[float]]) -> bytes:
    """Return numbers as canonical text: in shortest form, separated by tabs, one row per line."""
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()
