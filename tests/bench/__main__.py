"""Run the benchmarks and print a table of ratios: `make bench`.

The sides take turns in processes of their own, each under a pseudo-terminal so that progress bars
are drawn, with the same threads; the figures are medians over all their epochs.
"""

import json
import os
import pty
import statistics
import subprocess
import sys
import threading
from importlib.metadata import version

ROUNDS = 3
SIDES = {  # what to call it: the child's arguments (epochs to run; the last is not counted)
    "this project": ["ours", "5"],
    "conventional, 0 workers": ["conventional", "2", "0"],
    "conventional, 2 workers": ["conventional", "2", "2"],
}


def measure(arguments: list[str]) -> list[float]:
    """Seconds per epoch of one side, in a process of its own."""
    master, slave = pty.openpty()
    threading.Thread(target=drain, args=(master,), daemon=True).start()
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.mnist_epoch", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, check=True, text=True)
    os.close(slave)
    return json.loads(done.stdout.splitlines()[-1])


def drain(terminal: int) -> None:
    """Read a pseudo-terminal until it closes, so that its writer never waits."""
    while True:
        try:
            if not os.read(terminal, 65536):
                return
        except OSError:
            return


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(1, ROUNDS + 1):
        for name, arguments in SIDES.items():
            print(f"round {turn} of {ROUNDS}: {name} …", file=sys.stderr, flush=True)
            seconds[name] += measure(arguments)
    ours = statistics.median(seconds["this project"])
    print(f"\nSeconds per MNIST epoch, MLP 784-100-10, batch 64, everything on; torch {version('torch')}, CPU")
    print(f"{'':26}{'median':>8}{'min':>8}{'max':>8}{'n':>4}{'ratio to ours':>15}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:26}{median:8.2f}{min(values):8.2f}{max(values):8.2f}{len(values):4}{median / ours:14.1f}×",
            flush=True,
        )


if __name__ == "__main__":
    main()
