"""What the parts of `make gpu` share: the device, the data sets, the time that is left."""

import importlib.util
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.bench.measuring import child, tell
from tests.bench.turns import VARIABLE

PACKAGES = {  # as they are imported: as they are installed
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "plotly": "plotly",
    "jinja2": "jinja2",
    "scipy": "scipy",
    "filelock": "filelock",
    "tqdm": "tqdm",
    "rich": "rich",
    "pytest": "pytest",
    "xdist": "pytest-xdist",
}
SETS = {  # by the choice of ``data=``: the folder in the data folder, a file in it, the name
    "mnist": ("MNIST/raw", "train-images-idx3-ubyte", "MNIST"),
    "fashion_mnist": ("FashionMNIST/raw", "train-images-idx3-ubyte", "FashionMNIST"),
    "cifar10": ("cifar-10-batches-py", "data_batch_1", "CIFAR-10"),
}
LAST = 12.0  # seconds: with fewer left nothing more is begun
PATIENCE = 45.0  # seconds beyond the part's time, after which a process that was begun is killed


class MissingError(RuntimeError):
    """Something that a measurement needs is not here."""


class TimeUp(RuntimeError):  # noqa: N818  # no error: what there is counts
    """The part's seconds are over."""


class Stage(NamedTuple):
    """Where a part of the command measures.

    Attributes:
        device: "cuda", or "cpu" to try it out.
        data: the folder of the data sets.
        until: when the part's time is over, in seconds of a monotonic clock.
    """

    device: str
    data: Path
    until: float

    @property
    def dry(self) -> bool:
        """Whether all of it is only tried out, at tiny sizes."""
        return self.device == "cpu"

    @property
    def trainer(self) -> str:
        return "trainer=cpu" if self.dry else "trainer=gpu"

    def size(self, real: int, tiny: int) -> int:
        """Return a size as it is measured, or tried out."""
        return tiny if self.dry else real

    def images(self, name: str) -> list[str]:
        """Return the settings of an image set.

        Raises:
            MissingError: if it is not in the data folder.
        """
        folder, file, title = SETS[name]
        if not any((self.data / folder / each).is_file() for each in (file, f"{file}.gz")):
            raise MissingError(f"{title} is not in {self.data} (no {folder}/{file}): set DATA_DIR to where it is")
        return [f"data={name}", f"paths.data={self.data}", *(["data.verify=false"] if self.dry else [])]

    @property
    def left(self) -> float:
        """Seconds until the part's time is over."""
        return self.until - time.monotonic()

    def check_time(self) -> None:
        """Raises:
        TimeUp: if it is too late to begin anything.
        """
        if self.left < LAST and not self.dry:
            raise TimeUp("the part's time is over")

    def run(self, *arguments: str, piped: bool = False, **environment: str) -> tuple[float, str]:
        """Run ``python ARGUMENTS``; return its seconds and what it printed, if that is ``piped``.

        Raises:
            TimeUp: if it is too late.
            RuntimeError: if it does not end well, with the last lines of what it said.
        """
        self.check_time()
        tell(f"  {' '.join(arguments[1:])} …")
        try:
            done = child(*arguments, piped=piped, limit=self.limit, OMP_NUM_THREADS="1", **environment)
        except subprocess.CalledProcessError as error:
            said = " / ".join(line for line in error.output.splitlines()[-40:] if line.strip())[-1500:]
            raise RuntimeError(f"{arguments[1]} ended with status {error.returncode}: {said}") from error
        return done.seconds, done.out

    def run_together(self, *commands: tuple[str, ...], turns: int = 0) -> list[tuple[float, str]]:
        """Run several commands as `run` does, all at once; what they time they time in turns.

        Args:
            commands: the arguments of each; the standard output of those of `tests` is returned.
            turns: how many of them take turns, if not all.

        Raises:
            TimeUp: if it is too late.
            RuntimeError: if one does not end well.
        """
        self.check_time()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(commands)) as pool:
            environment = {VARIABLE: f"{turns or len(commands)}:{folder}"}
            started = [
                pool.submit(self.run, *command, piped=command[1].startswith("tests."), **environment)
                for command in commands
            ]
            return [each.result() for each in started]

    @property
    def limit(self) -> float | None:
        """Seconds that a process may take before it is killed."""
        return None if self.dry else self.left + PATIENCE


def missing_packages() -> list[str]:
    """Return the packages that the command needs and that are not installed."""
    return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]


def write_small_sets() -> Path:
    """Write data sets of a few images, to try it out with; returns their folder."""
    from tests.small_data import write_cifar10, write_mnist

    root = Path(tempfile.mkdtemp(prefix="gpu_dry_"))
    write_mnist(root)
    write_mnist(root, "FashionMNIST", seed=1)
    write_cifar10(root, train=1200)
    return root
