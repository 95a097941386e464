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
def test_auto_is_bfloat16_on_a_cpu_that_calculates_in_it(
    told: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bfloat16_on_a_gpu_that_calculates_in_it(
    has_it: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert resolve_precision("auto", CUDA) == expected


def test_other_devices_stay_at_float32_and_what_is_asked_for_is_taken() -> None:
    assert resolve_precision("auto", MPS) == "32-true"
    assert [resolve_precision(asked, CPU) for asked in ("64-true", "bf16-mixed", 32)] == ["64-true", "bf16-mixed", 32]


@pytest.mark.parametrize(("asked", "kind"), [("16-mixed", CPU), (16, CPU), ("16", CPU), ("64-true", MPS), (64, MPS)])
def test_what_a_device_does_not_calculate_in_is_refused(asked: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"trainer.precision={asked}"):
        resolve_precision(asked, kind)
