"""Embed the figures that runs have drawn into the page at reduced size, and link to the others."""

import io
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from src.core.errors import InputError
from src.sweeps.figures.images import read_png
from src.sweeps.report.reading import Sweeps
from src.sweeps.store.leaderboard import boards
from src.sweeps.store.runs import Run

MOST_RUNS = 12  # runs whose figures are embedded
MOST_PICTURES = 96
BUDGET = 5_000_000  # bytes of all embedded figures together
WIDTH, FULL_WIDTH = 640, 1400  # pixels
QUALITY = 82
MOST_EARLIER = 6  # versions of a figure from earlier epochs
EARLIER_BUDGET, EARLIER_WIDTH, EARLIER_QUALITY = 100_000, 330, 55  # bytes of all earlier versions, pixels, of 100
OF_THE_TEST = ("class_accuracy", "class_probabilities", "confusion_matrix", "misclassified")
KNOWN_ALREADY = "curves"  # the page draws learning curves itself


class Shown(NamedTuple):
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


class Picture(NamedTuple):
    """The figures of one name over all runs.

    Attributes:
        name: the figure's name in words.
        tested: True if it shows results on the test set.
        shown: the embedded figures of the best runs.
        rest: the title and the link of each other run's figure.
    """

    name: str
    tested: bool
    shown: list[Shown]
    rest: list[tuple[str, str]]

    @property
    def alike(self) -> bool:
        """Return True if the figure is the same in all runs, so that there is nothing to compare."""
        return len(self.shown) > 1 and len({image.source for image in self.shown}) == 1

    @property
    def epochs(self) -> list[int]:
        """The epochs at which at least one run has an earlier version."""
        return sorted({epoch for image in self.shown for epoch, _ in image.earlier})


class Album:
    """Embeds figures until the page's budget of bytes is spent.

    Args:
        sweeps: the sweeps whose figures these are; errors in reading a file are added to its notes.
    """

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps, self.left, self.left_for_earlier = sweeps, BUDGET, EARLIER_BUDGET

    def take(self, path: Path, title: str, width: int) -> Shown | None:
        """Embed a figure; return ``None`` if it cannot be read or the budget is spent."""
        if self.left <= 0:
            return None
        try:
            source = embedded(path, width)
        except InputError as error:
            self.sweeps.notes.append(str(error))
            return None
        self.left -= len(source)
        return Shown(title, source, self.sweeps.link(path))

    def take_earlier(self, path: Path) -> tuple[tuple[int, str], ...]:
        """Embed the versions of a run's figure from earlier epochs.

        Of more than `MOST_EARLIER` versions evenly spaced ones are taken. If one cannot be read or the budget is spent,
        none is embedded.

        Returns:
            The epoch and the data URI of each version.
        """
        if self.left_for_earlier <= 0:
            return ()
        folder = path.with_suffix("")
        paths = [] if folder.is_symlink() else folder.glob("[0-9]*.png")
        files = {int(file.stem): file for file in paths if file.stem.isdecimal()}
        epochs = sorted(files)
        kept = sorted({epochs[index * len(epochs) // MOST_EARLIER] for index in range(MOST_EARLIER)}) if epochs else []
        try:
            shown = tuple((epoch, embedded(files[epoch], EARLIER_WIDTH, EARLIER_QUALITY)) for epoch in kept)
        except InputError as error:
            self.sweeps.notes.append(str(error))
            return ()
        self.left_for_earlier -= sum(len(source) for _, source in shown)
        return shown if self.left_for_earlier >= 0 else ()


def embedded(path: Path, width: int, quality: int = QUALITY) -> str:
    """Return a figure as a data URI (WebP), at most ``width`` pixels wide.

    Raises:
        InputError: if the file cannot be read.
    """
    small = read_png(path)
    small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "webp", quality=quality, method=2)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def own_pictures(sweeps: Sweeps, album: Album) -> list[Shown]:
    """Embed the figures over all runs, which lie in the sweeps' own folders."""
    files = [path for folder in sweeps.folders for path in sorted(folder.glob("figures/*.png"))]
    found = [album.take(path, path.stem.replace("_", " "), FULL_WIDTH) for path in files]
    return [image for image in found if image]


def gallery(sweeps: Sweeps, album: Album) -> list[Picture]:
    """Return the runs' figures, grouped by name, the best runs first.

    Figures that show the test set are included for the chosen runs only. Names whose figures are the same in all runs
    come after the others.
    """
    runs = best_first(sweeps.runs)
    chosen = chosen_folders(sweeps.runs)
    files = {run.folder: files_of(run, run.folder in chosen) for run in runs}
    names = sorted({path.stem for paths in files.values() for path in paths}, key=turn)
    several = max(2, min(MOST_RUNS, MOST_PICTURES // max(1, len(names))))
    pictures = {name: Picture(name.replace("_", " "), name in OF_THE_TEST, [], []) for name in names}
    for run in runs:
        for path in files[run.folder]:
            picture, title = pictures[path.stem], f"{run.number}: {run.title}"
            shown = album.take(path, title, WIDTH) if len(picture.shown) < several else None
            if shown:
                picture.shown.append(shown._replace(earlier=album.take_earlier(path)))
            else:
                picture.rest.append((title, sweeps.link(path)))
    return sorted(pictures.values(), key=lambda picture: (picture.tested, picture.alike))


def files_of(run: Run, chosen: bool) -> list[Path]:
    """Return the figure files of a run; those that show the test set only if the run is chosen."""
    return [path for path in sorted(run.folder.glob("figures/*.png")) if chosen or path.stem not in OF_THE_TEST]


def chosen_folders(runs: list[Run]) -> set[Path]:
    """Return the folders of the runs that were chosen by the validation set."""
    return {run.folder for board in boards(runs) if board.chosen for run in board.chosen.finished}


def turn(name: str) -> tuple[bool, bool, str]:
    """Return the sort key of a figure's name; figures of the test set come last."""
    return (name in OF_THE_TEST, name == KNOWN_ALREADY, name)


def best_first(runs: list[Run]) -> list[Run]:
    """Return the first run of each entry, the best entry first, then the second run of each, and so on."""
    entries = [entry for board in boards(runs) for entry in board.entries]
    keyed = [(repeat, rank, run) for rank, entry in enumerate(entries) for repeat, run in enumerate(entry.runs)]
    return [run for _, _, run in sorted(keyed, key=lambda each: each[:2])]
