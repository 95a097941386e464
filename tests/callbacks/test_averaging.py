"""Averages of weights, from the setting and from Lightning's callbacks, in every precision."""

from pathlib import Path

import pytest
import torch

from tests.command_line import is_identical, load_checkpoint, read_history, read_weights, train, train_bare

LIGHTNING = "+callbacks.average={_target_: lightning.pytorch.callbacks."
AVERAGES = {
    "setting": "ema=0.9",
    "exponential": f"{LIGHTNING}EMAWeightAveraging, decay: 0.9}}",
    "mean": f"{LIGHTNING}WeightAveraging}}",
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(("precision", "kind"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_average_has_precision_of_run(average: str, precision: str, kind: torch.dtype, tmp_path: Path) -> None:
    """The average is computed and kept in the run's precision, and a resumed run has the uninterrupted one's."""
    given = ("model.hidden_size=4", f"trainer.precision={precision}", "trainer=cpu", AVERAGES[average])
    whole = train_bare(*given, "trainer.max_epochs=3", cwd=tmp_path).folder
    resumed = train_bare(*given, "trainer.max_epochs=1", cwd=tmp_path).folder
    train(f"resume={resumed}", "trainer.max_epochs=3", cwd=tmp_path)
    assert read_history(resumed) == read_history(whole)
    assert is_identical(read_weights(resumed), read_weights(whole))
    checkpoint = load_checkpoint(whole / "checkpoints" / "last.ckpt")
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert all(value.dtype == kind for value in averaged.values())
    assert any(not torch.equal(averaged[name], current[name]) for name in averaged)
    if kind == torch.float64:
        assert any(not torch.equal(value.float().double(), value) for value in averaged.values())
