"""Read a command's arguments."""

import argparse
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells what is wrong in one line, with status 1."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}; {self.prog} --help shows how it is used")
