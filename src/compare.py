"""Draw the pictures over a sweep's runs again, from their folders.

    python -m src.compare outputs/sweeps/NAME

They are drawn by themselves when a sweep ends well; this is for one that did not, or that goes on.
"""

import argparse
import sys
from pathlib import Path

from src.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.compare", description="Draw a sweep's pictures again.")
    parser.add_argument("folder", type=Path, help="the sweep's folder: outputs/sweeps/NAME")
    folder: Path = parser.parse_args().folder
    try:
        from src.sweeps.drawing import configured, draw

        files, errors = draw(folder, configured(folder))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    for path in files:
        print(path)
    if errors:
        sys.exit("\n".join(f"error: {each}" for each in errors))


if __name__ == "__main__":
    main()
