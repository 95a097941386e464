"""Embed the figures that runs have drawn into the page at reduced size, and link to the others."""

import io
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from src.core.errors import InputError
from src.sweeps.figures.images import read_png
from src.sweeps.report.reading import Sweeps
from src.sweeps.store.runs import Run

MAX_RUNS = 12  # runs whose figures are embedded
MAX_IMAGES = 96
BYTE_BUDGET = 5_000_000  # bytes of all embedded figures together
WIDTH, FULL_WIDTH = 640, 1400  # pixels
QUALITY = 82
MAX_EARLIER = 6  # versions of a figure from earlier epochs
EARLIER_BUDGET, EARLIER_WIDTH, EARLIER_QUALITY = 100_000, 330, 55  # bytes of all earlier versions, pixels, of 100
TEST_FIGURES = (
    *("class_accuracy", "class_probabilities", "confusion_matrix", "misclassified"),
    *("embedding", "reliability", "saliency"),
)
CURVES_FIGURE = "curves"  # the page draws learning curves itself


class EmbeddedImage(NamedTuple):
    """An embedded figure.

    Attributes:
        title: the run, or the file's name for a figure of the sweep.
        source: the image as a data URI.
        link: the address of the file, relative to the page.
        earlier: the figure's versions from earlier epochs, as (epoch, data URI) in ascending order.
    """

    title: str
    source: str
    link: str
    earlier: tuple[tuple[int, str], ...] = ()


class RunFigure(NamedTuple):
    """The figures of one name over all runs.

    Attributes:
        name: the figure's name in words.
        is_test: True if it shows results on the test set.
        shown: the embedded figures of the best runs.
        links: the title and the link of each other run's figure.
    """

    name: str
    is_test: bool
    shown: list[EmbeddedImage]
    links: list[tuple[str, str]]

    @property
    def is_identical(self) -> bool:
        """Return True if the figure is the same in all runs, so that there is nothing to compare."""
        return len(self.shown) > 1 and len({image.source for image in self.shown}) == 1

    @property
    def epochs(self) -> list[int]:
        """The epochs at which at least one run has an earlier version."""
        return sorted({epoch for image in self.shown for epoch, _ in image.earlier})


class ImageEmbedder:
    """Embeds figures until the page's budget of bytes is spent.

    Args:
        sweeps: the sweeps whose figures these are; errors in reading a file are added to its notes.
    """

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps, self.bytes_left, self.earlier_bytes_left = sweeps, BYTE_BUDGET, EARLIER_BUDGET

    def add_image(self, path: Path, title: str, width: int) -> EmbeddedImage | None:
        """Embed a figure; return ``None`` if it cannot be read or the budget is spent."""
        if self.bytes_left <= 0:
            return None
        try:
            source = _encode_image(path, width)
        except InputError as error:
            self.sweeps.warnings.append(str(error))
            return None
        self.bytes_left -= len(source)
        return EmbeddedImage(title, source, self.sweeps.get_url(path))

    def add_earlier_images(self, path: Path) -> tuple[tuple[int, str], ...]:
        """Embed the versions of a run's figure from earlier epochs.

        Of more than `MAX_EARLIER` versions evenly spaced ones are taken. If one cannot be read or the budget is spent,
        none is embedded.

        Returns:
            The epoch and the data URI of each version.
        """
        if self.earlier_bytes_left <= 0:
            return ()
        folder = path.with_suffix("")
        paths = [] if folder.is_symlink() else folder.glob("[0-9]*.png")
        files = {int(file.stem): file for file in paths if file.stem.isdecimal()}
        epochs = sorted(files)
        kept = sorted({epochs[index * len(epochs) // MAX_EARLIER] for index in range(MAX_EARLIER)}) if epochs else []
        try:
            shown = tuple((epoch, _encode_image(files[epoch], EARLIER_WIDTH, EARLIER_QUALITY)) for epoch in kept)
        except InputError as error:
            self.sweeps.warnings.append(str(error))
            return ()
        self.earlier_bytes_left -= sum(len(source) for _, source in shown)
        return shown if self.earlier_bytes_left >= 0 else ()


def _encode_image(path: Path, width: int, quality: int = QUALITY) -> str:
    """Return a figure as a data URI (WebP), at most ``width`` pixels wide.

    Raises:
        InputError: if the file cannot be read.
    """
    small = read_png(path)
    small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "webp", quality=quality, method=2)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def collect_sweep_figures(sweeps: Sweeps, embedder: ImageEmbedder) -> list[EmbeddedImage]:
    """Embed the figures over all runs, which lie in the sweeps' own folders."""
    files = [path for folder in sweeps.folders for path in sorted(folder.glob("figures/*.png"))]
    found = [embedder.add_image(path, path.stem.replace("_", " "), FULL_WIDTH) for path in files]
    return [image for image in found if image]


def collect_run_figures(sweeps: Sweeps, embedder: ImageEmbedder) -> list[RunFigure]:
    """Return the runs' figures, grouped by name, the best runs first.

    Figures that show the test set are included for the chosen runs only. Names whose figures are the same in all runs
    come after the others.
    """
    runs = sort_best_first(sweeps)
    chosen = find_chosen_folders(sweeps)
    files = {run.folder: _find_figures(run, run.folder in chosen) for run in runs}
    names = sorted({path.stem for paths in files.values() for path in paths}, key=_get_sort_key)
    several = max(2, min(MAX_RUNS, MAX_IMAGES // max(1, len(names))))
    pictures = {name: RunFigure(name.replace("_", " "), name in TEST_FIGURES, [], []) for name in names}
    for run in runs:
        for path in files[run.folder]:
            picture, title = pictures[path.stem], f"{run.number}: {run.title}"
            shown = embedder.add_image(path, title, WIDTH) if len(picture.shown) < several else None
            if shown:
                picture.shown.append(shown._replace(earlier=embedder.add_earlier_images(path)))
            else:
                picture.links.append((title, sweeps.get_url(path)))
    return sorted(pictures.values(), key=lambda picture: (picture.is_test, picture.is_identical))


def _find_figures(run: Run, is_chosen: bool) -> list[Path]:
    """Return the figure files of a run; those that show the test set only if the run is chosen."""
    return [path for path in sorted(run.folder.glob("figures/*.png")) if is_chosen or path.stem not in TEST_FIGURES]


def find_chosen_folders(sweeps: Sweeps) -> set[Path]:
    """Return the folders of the runs that were chosen by the validation set."""
    return {run.folder for board in sweeps.leaderboards if board.chosen for run in board.chosen.finished}


def _get_sort_key(name: str) -> tuple[bool, bool, str]:
    """Return the sort key of a figure's name; figures of the test set come last."""
    return (name in TEST_FIGURES, name == CURVES_FIGURE, name)


def sort_best_first(sweeps: Sweeps) -> list[Run]:
    """Return the first run of each entry, the best entry first, then the second run of each, and so on."""
    entries = [entry for board in sweeps.leaderboards for entry in board.entries]
    keyed = [(repeat, rank, run) for rank, entry in enumerate(entries) for repeat, run in enumerate(entry.runs)]
    return [run for _, _, run in sorted(keyed, key=lambda each: each[:2])]
