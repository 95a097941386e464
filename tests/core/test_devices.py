"""What suits a device."""

from typing import Any

import pytest
import torch

from src.core.devices import CPU, CUDA, MPS, resolve_precision
from src.core.errors import InputError


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_auto_precision_on_cpu(told: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The precision is bfloat16 if the CPU calculates in it, otherwise float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_on_gpu(has_it: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The precision is bfloat16 if the GPU calculates in it, otherwise float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert resolve_precision("auto", CUDA) == expected


def test_requested_precision_is_kept() -> None:
    """On other devices auto is float32."""
    assert resolve_precision("auto", MPS) == "32-true"
    assert [resolve_precision(asked, CPU) for asked in ("64-true", "bf16-mixed", 32)] == ["64-true", "bf16-mixed", 32]


@pytest.mark.parametrize(("asked", "kind"), [("16-mixed", CPU), (16, CPU), ("16", CPU), ("64-true", MPS), (64, MPS)])
def test_unsupported_precision_is_refused(asked: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"trainer.precision={asked}"):
        resolve_precision(asked, kind)
