"""The long experiments of the results page again, each with three seeds that share the GPU."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from src.storage.files import read_json
from tests.bench.measuring import Table, tell
from tests.gpu.stage import MissingError, Stage

SEEDS = 3
BARE = ("callbacks=none", "logger=none")  # no pictures: they change no number
EXPERIMENTS = {  # the quickest first, by their data sets
    "cifar10_mlp": "cifar10",
    "resnet18_pretrain": "cifar10",
    "mnist_cnn": "mnist",
    "cifar10_cnn": "cifar10",
    "fashion_cnn": "fashion_mnist",
}
TINY = ("data.train_size=64", "data.val_size=40", "trainer.max_epochs=1", "data.batch_size=16")


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Test accuracy of each seed, and what else the jobs' metrics tell."""
    for name, data in EXPERIMENTS.items():
        try:
            images = stage.images(data)[1:]  # the preset names its data set
        except MissingError as error:
            tell(f"{name}: left out: {error}")
            continue
        yield name, repeat(stage, name, images)


def repeat(stage: Stage, name: str, images: list[str]) -> Table:
    """An experiment with each seed, all at once on the GPU."""
    tiny = TINY if stage.dry else ()
    with tempfile.TemporaryDirectory() as folder:
        sweep = (
            f"seed=range({SEEDS})",
            f"hydra.launcher.jobs_per_gpu={SEEDS}",
            f"paths.outputs={folder}",
            "name=all",
            *BARE,
        )
        seconds, _ = stage.run("-m", "src.train", "-m", f"experiment={name}", stage.trainer, *images, *sweep, *tiny)
        found = [read_json(path) or {} for path in sorted(Path(folder).glob("sweeps/all/*/metrics.json"))]
    if len(found) != SEEDS:
        raise RuntimeError(f"{name}: {len(found)} of {SEEDS} seeds have finished")
    values = {"test accuracy": [100 * metrics["test/acc"] for metrics in found]}
    notes = (
        f"training took {max(each['seconds'] for each in found):.1f} s, side by side; the command {seconds:.1f} s",
    )
    return Table(f"experiment={name}: test accuracy of {SEEDS} seeds", "%", values, None, notes)
