"""Test and measure on a GPU, in minutes; on a machine without one try it all out.

    make gpu                           # all parts, eight minutes by their limits; those that are measured are left out
    make gpu ARGS=tests                # some of them, anew, with up to three minutes each
    make gpu ARGS="bench steps"        # bench: steps, augment, evaluate
    make gpu ARGS=dry                  # everything on the CPU at tiny sizes: are all paths sound?

    tests     pytest -m gpu: the same results as on the CPU, resumed runs, mixed precision, many jobs on a GPU, errors
    steps     a training step against bare loops, plain and as a CUDA graph; ResNet18's against the device's ceiling
    augment   images changed at random, against torchvision's transforms and kornia
    evaluate  a test against the forward pass alone
    many      sweeps as one model, one by one and side by side
    flagship  experiment=cifar10_fast against a plain loop with the same recipe
    results   the long experiments again, with three seeds

After each measurement docs/bench_gpu.json is written, so that what is stopped keeps what it has. Needs MNIST and
CIFAR-10 (and FashionMNIST for results) in the data folder, DATA_DIR. The exit status is 1 if a part failed.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.measuring import ROOT, Table, tell
from tests.gpu.stage import MissingError, Stage, TimeUp, missing_packages, write_small_sets

SECONDS = {"tests": 120, "steps": 100, "augment": 25, "evaluate": 30, "many": 75, "flagship": 75, "results": 55}
BENCH = ("steps", "augment", "evaluate")
MOST = 160.0  # seconds of a part that is named


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="PART", help=f"bench, dry, {', '.join(SECONDS)}; none: all parts")
    words = parser.parse_args().words
    if unknown := [word for word in words if word not in (*SECONDS, "bench", "dry")]:
        parser.error(f"there is no part {', '.join(unknown)}: choose {', '.join(SECONDS)}, bench or dry")
    if missing := missing_packages():
        sys.exit(f"error: these packages are missing: {', '.join(missing)}; install them with pip")
    sys.exit(0 if measure(choose(words), "dry" in words) else 1)


def choose(words: Sequence[str]) -> dict[str, float]:
    """Return the parts that words name, all if they name none, with the seconds of each."""
    named = {word for word in words if word in SECONDS}
    if "bench" in words and not named & set(BENCH):
        named |= set(BENCH)
    return {part: MOST if named else seconds for part, seconds in SECONDS.items() if part in (named or SECONDS)}


def measure(parts: dict[str, float], dry: bool) -> bool:
    """Measure parts, those left out that are measured already unless they were named; returns whether all went well."""
    import torch

    if not dry and not torch.cuda.is_available():
        sys.exit("error: there is no GPU here that torch can use; ARGS=dry tries it all out on the CPU")
    from tests.gpu.record import FILE, Record, describe_place

    device = "cpu" if dry else "cuda"
    data = write_small_sets() if dry else Path(os.environ.get("DATA_DIR", "data")).absolute()
    path = Path(tempfile.mkdtemp(prefix="gpu_dry_")) / FILE.name if dry else FILE
    record, named, well = Record(path, describe_place(device)), MOST in parts.values(), True
    began = time.monotonic()
    for part, seconds in parts.items():
        if not named and record.has(part):
            tell(f"{part}: measured already on this device with this code; name it to measure it anew")
            continue
        well &= run_part(part, Stage(device, data, time.monotonic() + seconds), record)
    tell(f"{time.monotonic() - began:.0f} s in all; written to {path}")
    return well


def run_part(part: str, stage: Stage, record: Any) -> bool:
    """Measure a part and keep what it finds, one after the other; returns whether it went well."""
    tell(f"{part} …")
    began, content, well, complete = time.monotonic(), {}, True, False
    try:
        for found in find(part, stage):
            content.update(found)
            record.keep(part, content, time.monotonic() - began, complete=False)
        complete = well = not content.get("failed")
        complete &= not content.get("not_run")
    except TimeUp:
        tell(f"{part}: its time is over; what it has is kept, and named it gets three minutes")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        content["failed"], well = str(error), False
        tell(f"{part}: {'left out' if isinstance(error, MissingError) else 'failed'}: {error}")
    record.keep(part, content, time.monotonic() - began, complete)
    return well


def find(part: str, stage: Stage) -> Iterator[dict[str, Any]]:
    """What a part finds: tables as far as they go, or what came of the tests."""
    from tests.gpu.record import describe_table

    if part == "tests":
        content = importlib.import_module("tests.gpu.tested").run_pytest(stage)
        told = ", ".join(f"{len(content[how])} {how.replace('_', ' ')}" for how in ("passed", "failed", "not_run"))
        tell(f"tests: {told}")
        yield content
        return
    tables: dict[str, Any] = {}
    measured: Iterator[tuple[str, Table]] = importlib.import_module(f"tests.gpu.{part}").measure(stage)
    for name, table in measured:
        print(f"\n{name}. {table}\n", flush=True)
        tables[name] = describe_table(table)
        yield {"tables": tables}


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
