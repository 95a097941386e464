"""``experiment=cifar10_fast`` beside a plain loop with the same recipe (`plain_flagship`), each with several seeds."""

import json
import math
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from src.storage.files import read_json
from tests.bench import times
from tests.bench.measuring import OURS, Table
from tests.gpu.stage import LAST, Stage

RUNS = 5
PLAIN = "a plain loop"
TINY = ("data.batch_size=64", "trainer.max_epochs=2", "data.train_size=256")
GOAL = "the plain loop has 0.67× or more"
NOTES = (
    "published on an A100 (Jordan, 2024): 3.83 s of training plain, 2.59 s at best, 94.0%",
    "both sides train for 16 epochs; seconds of training include neither imports nor the test",
    "beside its steps a run of this project writes a checkpoint, metrics and events in each epoch, and draws images",
    "each run of this project, and the plain loop's first one, also searches for the fastest kernels",
)


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Seconds of training, of one whole process, and the accuracy of each run; all start together and take turns."""
    images = stage.images("cifar10")[1:]
    epochs, size = (2, 64) if stage.dry else (16, 1024)
    runs = stage.size(RUNS, 2)
    plain_command = ("-m", "tests.gpu.plain_flagship", stage.device, str(stage.data), str(runs), str(epochs), str(size))
    settings = ("experiment=cifar10_fast", stage.trainer, *images, *(TINY if stage.dry else ()))
    with tempfile.TemporaryDirectory() as folder:
        ours = ("-m", "src.train", *settings, f"paths.outputs={folder}")
        started = [(*ours, f"seed={seed}", f"name={seed}", times.SETTING) for seed in range(runs)]
        told = stage.run_together(plain_command, *started)[0][1]
        whole = [] if stage.left < LAST and not stage.dry else [stage.run(*ours, "seed=0", "name=alone")[0]]
        folders = [Path(folder, "runs", str(seed)) for seed in range(runs)]
        found = [read_json(each / "metrics.json") or {} for each in folders]
        steps = [math.fsum((read_json(each / times.FILE) or {})["training"]) for each in folders]
    plain = json.loads(told.splitlines()[-1])
    about = f"experiment=cifar10_fast; torch {version('torch')}"
    training = {
        OURS: [metrics["seconds"] for metrics in found],
        f"{OURS}, its steps alone": steps,
        f"{PLAIN}, its first run": plain["seconds"][:1],
        f"{PLAIN}, the others": plain["seconds"][1:],
    }
    yield "training", Table(f"Seconds of training, {about}", "s", training, OURS, NOTES, GOAL)
    accuracy = {
        f"{OURS}, with mirror images": [100 * metrics["test/acc_flip"] for metrics in found],
        f"{PLAIN}, with mirror images": plain["flipped"],
        OURS: [100 * metrics["test/acc"] for metrics in found],
        PLAIN: plain["accuracy"],
    }
    yield "accuracy", Table(f"Test accuracy, {about}", "%", accuracy, None)
    if whole:
        yield "process", Table(f"Seconds of the whole command, {about}", "s", {OURS: whole}, None)
