"""Train random jobs together as one model and each alone, and compare their weights, optimisers and metrics.

The jobs of a stack differ in everything that may differ: widths and numbers of layers, activations, batch norm,
dropout, biases, penalties, rates, seeds. In float64 they must agree to nine digits after 50 steps or more.
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tests.chaos.table import Row, Table
from tests.vectorized.both_ways import Settings, assert_same_as_alone, make_job_settings

DATA = ("xor", "parabola", "cubic")
OPTIMIZERS = (["optimizer=sgd", "optimizer.momentum=0"], ["optimizer=sgd"], ["optimizer=adam"], ["optimizer=adamw"])
SCHEDULES: tuple[list[str], ...] = ([], [], ["scheduler=cosine"], ["scheduler=one_cycle"], ["scheduler=exponential"])
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid")


def run(seed: int, count: int) -> Table:
    """Return what came of ``count`` random stacks."""
    findings = []
    for number in tqdm(range(count), desc="stacks", mininterval=5):
        jobs = draw_jobs(random.Random(f"{seed} {number}"))
        with tempfile.TemporaryDirectory() as folder:
            try:
                assert_same_as_alone(Path(folder), jobs)
            except Exception as error:
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                findings.append(f"--seed {seed}, stack {number}: {jobs}: {why}")
    return Table([Row("jobs of other shapes in one stack", count, 0, len(findings))], findings)


def draw_jobs(chance: random.Random) -> list[Settings]:
    """Return the settings of a few jobs that can be trained together.

    A batch norm cancels a bias before it if the activation between them is linear on all samples, and the size of the
    weight of a single input. Their gradients are then rounding alone, which Adam divides by its size: with Adam such
    batch norms are left out.
    """
    data, optimizer = chance.choice(DATA), chance.choice(OPTIMIZERS)
    shared = [f"data={data}", "data.train_size=40", "data.val_size=20", "data.batch_size=10", "trainer.max_epochs=14"]
    shared += [*optimizer, *chance.choice(SCHEDULES)]
    norms = ["false", "true", "after"] if optimizer[0] == "optimizer=sgd" else ["false", "true"]
    if norms[-1] == "true" and data != "xor":
        norms = ["false"]
    if chance.random() < 0.3:
        shared += ["data.order_seed=5"]
    return make_job_settings(shared, *(draw_job(chance, norms) for _ in range(chance.randint(2, 5))))


def draw_job(chance: random.Random, norms: Sequence[str]) -> str:
    widths = [chance.randint(1, 9) for _ in range(chance.randint(1, 3))]
    settings = {
        "seed": chance.randrange(1000),
        "model.hidden_size": str(widths).replace(" ", ""),
        "model.activation": chance.choice(ACTIVATIONS),
        "model.batch_norm": chance.choice(norms),
        "model.dropout": chance.choice((0, 0, 0.3)),
        "model.output_bias": chance.choice(("true", "true", "false")),
        "model.l2": chance.choice((0, 0, 0.01)),
        "optimizer.lr": chance.choice((0.003, 0.01, 0.03)),
        "optimizer.weight_decay": chance.choice((0, 0.01)),
    }
    return " ".join(f"{name}={value}" for name, value in settings.items())
