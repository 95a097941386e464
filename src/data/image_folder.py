"""A folder of one's own images: a folder per class, splits in folders, a CSV file of labels, or a mask per image."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.core.checks import format_escaped, format_value
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.core.formatting import format_count
from src.data.images import ImageDataModule
from src.data.loading.samples import Samples
from src.data.loading.splits import resolve_count, split_stratified
from src.data.own.duplicates import drop_duplicates
from src.data.own.image_cache import ImageCache
from src.data.own.labels import encode_labels, list_classes
from src.data.own.listing import SHOWN_NAMES, Problems, Source, describe_problems, list_images, sort_classes
from src.data.own.masks import MaskCache, load_masks
from src.data.own.streaming import select_rows

log = logging.getLogger(__name__)
HELD_OUT = 0.15  # of the images, to validate on and to test on, if neither folders nor settings say so


class ImageFolder(ImageDataModule):
    """Images (C, size, size) from files, with the names of their folders, labels from a CSV file, or masks as targets.

    Args:
        root: the folder.
        cache: the folder for the decoded images.
        labels: a CSV file, relative to the root; ``None``: the folders name the classes.
        masks: the name of the folder of masks, next to the folder images/; ``None``: there are none.
        classes: the names of the masks' classes; ``None``: numbers.
        task: the task; ``None``: dense with masks, otherwise found from the columns of the CSV file.
        stream: read the decoded images from their file batch by batch; false: keep them in memory; ``None``: stream
            what is too large for it. The results are the same.
        size: height and width in pixels to which images are scaled and cropped.
        channels: 3 for colours, 1 for grey.
        val_size: as in `TensorDataModule`; ``None``: the folder val/, and without it `HELD_OUT`.
        test_size: images to test on, as ``val_size``, with the folder test/.
        mean, std: numbers for each channel, of pixels from 0 to 1, to standardise with; ``None``: those of the
            training images.
        settings: those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        cache: str,
        size: int,
        channels: int,
        labels: str | None = None,
        masks: str | None = None,
        classes: Sequence[str] | None = None,
        task: str | None = None,
        stream: bool | None = None,
        val_size: int | float | None = None,
        test_size: int | float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        self.root, self.cache, self.labels, self.size = Path(root), Path(cache), labels, size
        self.stream = stream
        self.in_shape = (channels, size, size)
        self.problems: Problems = {}
        self.files, self.task = list_images(self.root, Source(labels, masks, task), self.problems)
        self.masks, self.is_white = torch.empty(0), False  # of the files, (N, size, size)
        if self.task == "dense":
            self._load_masks(classes)
        else:
            self._find_classes(classes)
        val_size = self._choose_size("val", val_size)
        self.test_size = self._choose_size("test", test_size)
        self.stated = self._check_statistics(mean, std, settings.get("standardize", True))
        super().__init__(val_size=val_size, **settings)
        self.own_val_set: Samples | None = None  # the images of val/
        self.digest = self.trained_digest = ""  # of these images, and of those of the run that goes on

    def _load_masks(self, names: Sequence[str] | None) -> None:
        """Decode the masks; keep the images that have one, and find the classes."""
        cache = MaskCache(self.root, self.files, self.size, self.cache)
        self.files, self.masks, self.class_names, self.is_white = load_masks(cache, self.files, names, self.problems)

    def _find_classes(self, names: Sequence[str] | None) -> None:
        """Find the classes; refuse a single one, and those that are only validated or tested on."""
        if names is not None:
            raise InputError(f"data.classes={format_value(names)} names the classes of data.masks: leave it out")
        every = list_classes((file.label for file in self.files), self.task)
        trained = list_classes((file.label for file in self.files if file.split in ("", "train")), self.task)
        self.class_names = tuple(sort_classes(trained))
        if unseen := every - trained:
            shown = ", ".join(map(format_escaped, sorted(unseen)[:SHOWN_NAMES]))
            raise InputError(f"data.root={self.root}: there are no images to train on for {shown}")
        if self.task == "binary" and len(trained) != 2:
            raise InputError(f"data.task=binary: data.root={self.root} has {len(trained)} classes, not 2")
        if len(trained) < 2 and self.task != "regression":
            name = format_escaped(next(iter(trained), "no label"))
            deeper = f"; are the classes in {self.root / name}?" if (self.root / name).is_dir() else ""
            raise InputError(f"data.root={self.root} has one class, {name}, and it takes two to tell apart{deeper}")

    def _choose_size(self, split: str, size: int | float | None) -> int | float:
        """Return the number or fraction of images to draw for a split; 0 if files belong to it already."""
        if not any(file.split == split for file in self.files):
            return HELD_OUT if size is None else size
        if size is not None:
            raise InputError(
                f"data.{split}_size={size}: {self.labels or self.root} says which images are for "
                f"{'validation' if split == 'val' else 'the test'}: leave the setting out"
            )
        return 0

    def _check_statistics(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, standardize: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Return the stated mean and standard deviation of bytes, each (C, 1, 1)."""
        if mean is None and std is None:
            return None
        if mean is None or std is None or not standardize or not len(mean) == len(std) == self.in_shape[0]:
            raise InputError(
                f"data.mean={format_value(mean)} and data.std={format_value(std)} need each other, a number for each "
                f"of the {format_count(self.in_shape[0], 'channel')}, and data.standardize=true"
            )
        return torch.tensor(mean).view(-1, 1, 1) * 255, torch.tensor(std).view(-1, 1, 1) * 255

    def load(self) -> tuple[Samples, Samples]:
        names = [file.name for file in self.files]
        decoded = ImageCache(self.root, names, self.size, self.in_shape[0], self.cache).load(self.stream)
        problems = {reason: list(names) for reason, names in self.problems.items()}
        for reason, indices in decoded.failures.items():
            problems[reason] = [names[index] for index in indices]
        kept = drop_duplicates(self.files, decoded.digests, self.task, problems)
        rows = {index: row for row, index in enumerate(index for index, one in enumerate(decoded.digests) if one)}
        samples = {
            split: self._take([index for index in kept if self.files[index].split in splits], rows, decoded.images)
            for split, splits in {"train": ("", "train"), "val": ("val",), "test": ("test",)}.items()
        }
        content = sorted(f"{decoded.digests[index]} {self.files[index].label}\n" for index in kept)
        self.digest = hashlib.sha256("".join(content).encode(errors="surrogateescape")).hexdigest()[:16]
        self._tell(problems, samples["train"])
        self.own_val_set = samples["val"] if any(file.split == "val" for file in self.files) else None
        return self._draw_test_set(samples["train"], samples["test"])

    def _take(self, indices: list[int], rows: dict[int, int], images: Tensor) -> Samples:
        """Return the samples of files by their indices; ``rows`` has the row of each in ``images``."""
        if self.task == "dense":
            targets = select_rows(self.masks, torch.tensor(indices).long())
        else:
            targets = encode_labels([self.files[index].label for index in indices], self.task, self.class_names)
        if len(indices) == len(images):  # all of them, in their order: they need no copy
            return Samples(images, targets)
        return Samples(select_rows(images, torch.tensor([rows[index] for index in indices]).long()), targets)

    def _count_images(self, samples: Samples) -> dict[str, int]:
        """Return the number of images of each class, or with each label; empty for other tasks."""
        if self.task in ("dense", "regression"):
            return {}
        targets = samples.targets
        counts = targets.sum(dim=0) if targets.ndim == 2 else targets.bincount(minlength=self.num_classes)
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def _tell(self, problems: Problems, samples: Samples) -> None:
        """Log what was left out, and classes with a single image."""
        if single := [name for name, count in self._count_images(samples).items() if count == 1]:
            problems["classes have a single image"] = single
        if is_main_process():
            for line in describe_problems(problems):
                log.warning("%s: %s", self.root, line)

    def get_strata(self, samples: Samples) -> Tensor:
        """Return the numbers (N,) whose fractions a split keeps: of classes, or of combinations of labels."""
        if self.task != "multilabel":
            return super().get_strata(samples)
        return torch.unique(samples.targets, dim=0, return_inverse=True)[1]

    def _draw_test_set(self, samples: Samples, test_set: Samples) -> tuple[Samples, Samples]:
        """Return the samples to train and validate on, and those to test on: given, or drawn from the former."""
        if self.test_size:
            count = resolve_count(self.test_size, samples.size, "data.test_size")
            generator = torch.Generator().manual_seed(self.split_seed)
            chosen, rest = split_stratified(self.get_strata(samples), count, generator)
            samples, test_set = samples.select(rest), samples.select(chosen)
        return samples, test_set

    def split(self, samples: Samples) -> tuple[Samples, Samples]:
        train_set, drawn = super().split(samples)
        return train_set, drawn if self.own_val_set is None else self.own_val_set

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is not None:
            return
        super().setup(stage)
        assert self.train_set is not None
        assert self.val_set is not None
        assert self.test_set is not None
        self._compare_digests()
        self._check_splits(self.train_set, self.val_set, self.test_set)
        if self.stated:
            self.mean, self.std = self.stated
        if is_main_process():
            log.info(
                "%s: %s%s to train on, %d to validate on, %d to test on",
                *(self.root, format_count(self.train_set.size, "image"), self._describe_classes()),
                *(self.val_set.size, self.test_set.size),
            )

    def _describe_classes(self) -> str:
        if self.task == "regression":
            return ""
        kind = "labels" if self.task == "multilabel" else "classes"
        white = ", white in the masks is class 1" if self.is_white else ""
        return f" of {self.num_classes} {kind}{white}"

    def _check_splits(self, train_set: Samples, val_set: Samples, test_set: Samples) -> None:
        """Refuse a training set without one of the classes, and a validation or test set without images."""
        if missing := [name for name, count in self._count_images(train_set).items() if not count]:
            names = ", ".join(map(format_escaped, missing[:SHOWN_NAMES]))
            raise InputError(
                f"data.root={self.root}: of {names} no image is left to train on: add images, or remove the class"
            )
        for split, samples, asked in (("val", val_set, self.val_size or self.own_val_set), ("test", test_set, True)):
            if asked and not samples.size:
                raise InputError(
                    f"data.{split}_size: no image of {self.root} is left for it: add images, or choose more"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint remembers of the images: class names, and a hash of contents and labels."""
        return {"class_names": list(self.class_names), "digest": self.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the images with those that a checkpoint was trained on.

        Raises:
            InputError: if the classes are others.
        """
        if list(self.class_names) != state_dict.get("class_names"):
            raise InputError(f"data.root={self.root}: the classes are others than when the run started")
        self.trained_digest = state_dict.get("digest", "")
        self._compare_digests()

    def _compare_digests(self) -> None:
        """Tell if the images are not those that a checkpoint was trained on, as soon as both are known."""
        known = self.digest and self.trained_digest
        if known and self.digest != self.trained_digest and is_main_process():
            log.warning("%s: the images or their labels have changed since the run started", self.root)
