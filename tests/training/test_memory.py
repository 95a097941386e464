"""What a GPU cannot do is told in one line: of memory, and of results that are the same each time."""

from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from src.models.base import SupervisedModule
from tests.command_line import BARE, read_json, run, train_bare

CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB …"
ERRORS = [  # as torch tells them
    torch.OutOfMemoryError(CUDA_MESSAGE),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported …"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OUT_OF_MEMORY_MESSAGE = "there is not enough memory{}: take a smaller model or data.batch_size"


class Fail(Callback):
    """Raises what stands here, as an epoch begins."""

    SETTING = "+callbacks.fail._target_=tests.training.test_memory.Fail"
    error: Exception

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise Fail.error


@pytest.mark.parametrize("error", ERRORS, ids=["PyTorch's", "CUDA's", "cuBLAS's"])
def test_training_out_of_memory_is_reported(error: Exception, tmp_path: Path) -> None:
    """A run that needs more memory than the GPU has ends with an error in one line."""
    Fail.error = error
    outcome = run("src.train", *BARE, Fail.SETTING, cwd=tmp_path)
    told = OUT_OF_MEMORY_MESSAGE.format(" (PyTorch asked for 2.00 GiB)" if error is ERRORS[0] else "")
    assert outcome.error == f"error: {told}"
    assert read_json(outcome.folder / "status.json") == {
        "status": "failed",
        "reason": "out of memory",
        "message": told,
    }


def test_evaluation_out_of_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that needs more memory than the GPU has ends with an error in one line."""
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder

    def exhausted(*batch: object) -> None:
        raise torch.OutOfMemoryError(CUDA_MESSAGE)

    monkeypatch.setattr(SupervisedModule, "test_step", exhausted)
    outcome = run("src.eval", f"run={folder}", "split=test", cwd=tmp_path)
    assert outcome.error == f"error: {OUT_OF_MEMORY_MESSAGE.format(' (PyTorch asked for 2.00 GiB)')}"


def test_nondeterministic_operation_is_named(tmp_path: Path) -> None:
    """With deterministic=true an operation that is not deterministic on the device is named."""
    Fail.error = RuntimeError(
        "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation …"
    )
    outcome = run("src.train", *BARE, Fail.SETTING, "deterministic=true", cwd=tmp_path)
    assert outcome.error == (
        "error: deterministic=true: adaptive_max_pool2d_backward_cuda is not deterministic on this device; "
        "choose a model without it, or deterministic=false"
    )
