"""Run benchmarks and print a table of each: all, or those named.

    make bench
    python -m tests.bench sweep mnist_epoch
    python -m tests.bench sweep --rounds 1     # a first look

What was found goes to docs/bench.json and into the pictures docs/images/bench.png and growth.png as well. The
sides of a benchmark take turns in processes of their own, under a terminal so that progress is
drawn, with the same threads. Each is a module here with ``measure(rounds) -> Table``.
"""

import argparse
import importlib
import subprocess
import sys

from tests.bench.measuring import tell
from tests.bench.record import keep

BENCHMARKS = (
    "steps_mnist",
    "steps_xor",
    "steps_cifar10",
    "mnist_epoch",
    "augment",
    "command_help",
    "command_cfg",
    "command_completion",
    "start",
    "evaluate_cnn",
    "evaluate_mlp",
    "image_folder",
    "image_folder_photos",
    "growth",
    "sweep",
    "sweep_memory",
    "vectorized_xor",
    "vectorized_mnist",
    "vectorized_mixed",
    "vectorized_widths",
    "halving",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure how fast things are.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; none: all of them")
    parser.add_argument("--rounds", type=int, help="how often the sides take turns; else as often as each needs")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"{', '.join(sorted(unknown))}: there is no such benchmark; choose from {', '.join(BENCHMARKS)}")
    done = [run(name, given.rounds) for name in given.names or BENCHMARKS]
    sys.exit(0 if all(done) else 1)


def run(name: str, rounds: int | None) -> bool:
    """Measure and print; returns whether that went well. One that fails costs itself alone."""
    tell(f"{name} …")
    try:
        table = importlib.import_module(f"tests.bench.{name}").measure(**({} if rounds is None else {"rounds": rounds}))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        tell(f"{name}: not measured: {error}")
        return False
    print(f"\n{name}. {table}\n", flush=True)
    keep(name, table)
    return True


if __name__ == "__main__":
    main()
