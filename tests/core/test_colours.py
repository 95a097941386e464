"""The colours that many lines are told apart by."""

from itertools import combinations

import numpy as np
import pytest

from src.core.colours import LINES_ON_DARK, LINES_ON_LIGHT

LIGHT, DARK = "#ffffff", "#14171a"  # the page
TO_CONES = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
TO_LAB = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
COLOUR_VISION = {  # linear RGB as seen with all cones, and without one kind (Machado et al., 2009)
    "all": np.eye(3).tolist(),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    """A colour's linear RGB, (3,)."""
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def oklab(colour: str, eyes: str) -> np.ndarray:
    """Where eyes see a colour in OKLab, (3,)."""
    seen = np.clip(np.array(COLOUR_VISION[eyes]) @ linear(colour), 0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ seen)


def contrast(colour: str, paper: str) -> float:
    """As the Web Content Accessibility Guidelines have it: 1 to 21."""
    high, low = sorted(([0.2126, 0.7152, 0.0722] @ linear(each) for each in (colour, paper)), reverse=True)
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.parametrize(("colours", "paper"), [(LINES_ON_LIGHT, LIGHT), (LINES_ON_DARK, DARK)], ids=["light", "dark"])
def test_line_colours_are_distinguishable(colours: list[str], paper: str) -> None:
    """Twelve colours are distinct, even without one kind of cone, and contrast with the page."""
    assert len(set(colours)) == 12
    assert min(contrast(colour, paper) for colour in colours) > 2.99
    for eyes, least in {"all": 0.13, "no red": 0.08, "no green": 0.08, "no blue": 0.08}.items():
        places = [oklab(colour, eyes) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > least, eyes
