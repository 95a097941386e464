"""What tests of sweeps share."""

from pathlib import Path

import pytest

from tests.sweeps.reports import epochs, make_accuracy_job


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two widths × two rates × two seeds; the wide ones with the high rate failed."""
    found = {(4, 0.01): (0.5, 0.7), (4, 0.1): (0.6, 0.6), (8, 0.01): (0.8, 1.0)}
    for number in range(8):
        width, rate, seed = (4, 8)[number // 4], (0.01, 0.1)[number // 2 % 2], number % 2
        typed = (f"model.hidden_size={width}", f"optimizer.lr={rate}", f"seed={seed}", "data=xor")
        if (width, rate) in found:
            val = found[width, rate][seed]
            make_accuracy_job(
                tmp_path / "grid", f"{number}_x", *typed, val=val, test=val - 0.375, history=epochs(0.5, 0.25)
            )
        else:
            make_accuracy_job(tmp_path / "grid", f"{number}_x", *typed, status="failed", reason="diverged")
    return tmp_path / "grid"
