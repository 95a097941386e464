"""Attack runs and sweeps and tell what came of it, a table for each kind of attack.

    make chaos                                    # all of them, about an hour on two cores
    make chaos ARGS="states --count 20000"        # some of them
    python -m tests.chaos kills --seed 7

    states     crashes, which leave the disk in fewer different states, planned from by the next start
    kills      processes killed at random moments, then started again
    overrides  settings as nobody should give them
    damage     damaged files in the folders of runs and sweeps
    disk       a disk that is full, read-only or closed
    stacks     jobs of random shapes trained as one model, against each alone

Each is replayed by its seed. The exit status is 1 if anything was lost or wrong.
"""

import argparse
import importlib
import sys
import time

COUNTS = {"states": 200_000, "kills": 200, "overrides": 10_000, "damage": 1_000, "disk": 1_000, "stacks": 200}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attacks", nargs="*", metavar="attack", default=list(COUNTS), help=", ".join(COUNTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="tries of each; the default suits the kind")
    given = parser.parse_args()
    if unknown := set(given.attacks) - set(COUNTS):
        parser.error(f"there is no attack {', '.join(sorted(unknown))}: choose {', '.join(COUNTS)}")
    wrong = 0
    for attack in given.attacks:
        began = time.monotonic()
        table = importlib.import_module(f"tests.chaos.{attack}").run(given.seed, given.count or COUNTS[attack])
        print(f"\n{attack}, seed {given.seed}, {time.monotonic() - began:.0f} s\n{table}", flush=True)
        wrong += table.wrong
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
