"""What the tests of pictures share."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from src.callbacks.figures import base as figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The pictures in the order in which they are drawn, while they are still figures."""
    seen: list[Figure] = []
    rendered = figures.render_figure

    def seen_and_rendered(figure: Figure) -> np.ndarray:
        seen.append(figure)
        return rendered(figure)

    monkeypatch.setattr(figures, "render_figure", seen_and_rendered)
    return seen
