"""``experiment=cifar10_fast`` beside a plain loop with the same recipe (`plain_flagship`), each with several seeds."""

import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from src.storage.files import read_json
from tests.bench.measuring import OURS, Table
from tests.gpu.stage import Stage, TimeUp

RUNS = 5
PLAIN = "a plain loop"
TINY = ("data.batch_size=64", "trainer.max_epochs=2", "data.train_size=256")
GOAL = "the plain loop has 0.67× or more"
NOTES = (
    "published on an A100 (Jordan, 2024): 3.83 s of training plain, 2.59 s at best, 94.0%",
    "both sides train for 16 epochs; seconds of training include neither imports nor the test",
)


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Seconds of training, of the whole process, and the accuracy of each run."""
    images = stage.images("cifar10")[1:]
    epochs, size = (2, 64) if stage.dry else (16, 1024)
    runs = stage.size(RUNS, 2)
    told = stage.run(
        "-m", "tests.gpu.plain_flagship", stage.device, str(stage.data), str(runs), str(epochs), str(size), piped=True
    )
    plain = json.loads(told[1].splitlines()[-1])
    training: dict[str, list[float]] = {OURS: [], PLAIN: plain["seconds"]}
    whole: dict[str, list[float]] = {OURS: []}
    accuracy: dict[str, list[float]] = {name: [] for name in (f"{OURS}, with mirror images", OURS)}
    accuracy |= {f"{PLAIN}, with mirror images": plain["flipped"], PLAIN: plain["accuracy"]}
    for seed in range(runs):
        try:
            seconds, metrics = run(stage, seed, images)
        except TimeUp:
            if not seed:
                raise
            return
        training[OURS].append(metrics["seconds"])
        whole[OURS].append(seconds)
        accuracy[OURS].append(100 * metrics["test/acc"])
        accuracy[f"{OURS}, with mirror images"].append(100 * metrics["test/acc_flip"])
        about = f"experiment=cifar10_fast; torch {version('torch')}"
        yield "training", Table(f"Seconds of training, {about}", "s", training, OURS, NOTES, GOAL)
        yield "process", Table(f"Seconds of the whole command, {about}", "s", whole, None)
        yield "accuracy", Table(f"Test accuracy, {about}", "%", accuracy, None)


def run(stage: Stage, seed: int, images: list[str]) -> tuple[float, dict[str, float]]:
    """One run of the project: the command's seconds, and the metrics."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ("experiment=cifar10_fast", stage.trainer, *images, *(TINY if stage.dry else ()), f"seed={seed}")
        seconds, _ = stage.run("-m", "src.train", *settings, f"paths.outputs={folder}", "name=fast")
        metrics = read_json(Path(folder) / "runs" / "fast" / "metrics.json")
    if metrics is None:
        raise RuntimeError(f"seed {seed} has left no metrics")
    return seconds, metrics
