"""The pictures that runs have drawn, small enough to lie in the page, and links to all of them."""

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

MOST_RUNS = 12  # whose pictures are shown
MOST_PICTURES = 96
BUDGET = 5_000_000  # bytes of all pictures together
WIDTH, FULL_WIDTH = 640, 1400  # pixels
QUALITY = 82
MOST_EARLIER = 6  # versions of a picture from earlier epochs
EARLIER_BUDGET, EARLIER_WIDTH, EARLIER_QUALITY = 100_000, 330, 55  # bytes of all of them together, pixels
OF_THE_TEST = ("class_accuracy", "class_probabilities", "confusion_matrix", "misclassified")
KNOWN_ALREADY = "curves"  # the page draws them itself


class Shown(NamedTuple):
    """A picture in the page: of which run, its data as an address, and where the file lies.

    ``earlier`` has what it was at earlier epochs, by their numbers, in their order.
    """

    title: str
    source: str
    link: str
    earlier: tuple[tuple[int, str], ...] = ()


class Picture(NamedTuple):
    """What the runs have drawn under one name: of the best runs to see, of the rest where it lies.

    ``tested`` tells that it is of the test set.
    """

    name: str
    tested: bool
    shown: list[Shown]
    rest: list[tuple[str, str]]

    @property
    def alike(self) -> bool:
        """Whether it is the same in all runs: there is nothing to compare."""
        return len(self.shown) > 1 and len({each.source for each in self.shown}) == 1

    @property
    def epochs(self) -> list[int]:
        """The epochs at which one of the runs has an earlier version."""
        return sorted({epoch for each in self.shown for epoch, _ in each.earlier})


class Album:
    """Takes pictures in until the page has enough of them.

    Args:
        sweeps: whose pictures they are; what cannot be read is added to its notes.
    """

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps, self.left, self.left_for_earlier = sweeps, BUDGET, EARLIER_BUDGET

    def take(self, path: Path, title: str, width: int) -> Shown | None:
        """A picture for the page; ``None`` if it cannot be read or there is no more room."""
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
        """Return what a run's picture was at earlier epochs, some of these evenly where there are many; all or none."""
        if self.left_for_earlier <= 0:
            return ()
        folder = path.with_suffix("")
        paths = [] if folder.is_symlink() else folder.glob("[0-9]*.png")
        files = {int(each.stem): each for each in paths if each.stem.isdecimal()}
        epochs = sorted(files)
        kept = sorted({epochs[place * len(epochs) // MOST_EARLIER] for place in range(MOST_EARLIER)}) if epochs else []
        try:
            shown = tuple((epoch, embedded(files[epoch], EARLIER_WIDTH, EARLIER_QUALITY)) for epoch in kept)
        except InputError as error:
            self.sweeps.notes.append(str(error))
            return ()
        self.left_for_earlier -= sum(len(source) for _, source in shown)
        return shown if self.left_for_earlier >= 0 else ()


def embedded(path: Path, width: int, quality: int = QUALITY) -> str:
    """A picture as an address that holds it, at most so many pixels wide.

    Raises:
        InputError: if it cannot be read.
    """
    small = read_png(path)
    small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "webp", quality=quality, method=2)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def own_pictures(sweeps: Sweeps, album: Album) -> list[Shown]:
    """The pictures over all runs, which the sweeps have drawn themselves."""
    files = [path for folder in sweeps.folders for path in sorted(folder.glob("figures/*.png"))]
    found = [album.take(path, path.stem.replace("_", " "), FULL_WIDTH) for path in files]
    return [each for each in found if each]


def gallery(sweeps: Sweeps, album: Album) -> list[Picture]:
    """The runs' pictures by their names, the best runs first; those of the test set of the chosen runs alone.

    Names whose pictures are the same in all runs come after the others.
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
    """The pictures of a run; those of the test set only if the run is chosen."""
    return [path for path in sorted(run.folder.glob("figures/*.png")) if chosen or path.stem not in OF_THE_TEST]


def chosen_folders(runs: list[Run]) -> set[Path]:
    """The folders of the runs that the validation set chose."""
    return {run.folder for board in boards(runs) if board.chosen for run in board.chosen.finished}


def turn(name: str) -> tuple[bool, bool, str]:
    """When a picture's turn comes: the test set's last."""
    return (name in OF_THE_TEST, name == KNOWN_ALREADY, name)


def best_first(runs: list[Run]) -> list[Run]:
    """One run of each entry, the best entry first, then the next run of each."""
    entries = [entry for board in boards(runs) for entry in board.entries]
    turns = [(turn, place, run) for place, entry in enumerate(entries) for turn, run in enumerate(entry.runs)]
    return [run for _, _, run in sorted(turns, key=lambda each: each[:2])]
