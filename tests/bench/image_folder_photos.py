"""2,000 larger pictures as JPEGs, as `image_folder`."""

from tests.bench import image_folder
from tests.bench.measuring import Table


def measure(rounds: int = image_folder.ROUNDS) -> Table:
    return image_folder.compare("2,000 JPEGs of 500×375 pixels", 2_000, (500, 375), "jpg", 128, rounds)
