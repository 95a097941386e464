"""Reading pickles of plain values and arrays of bytes, which cannot run code.

A pickle names what is to be called while it is read. Here it can call stand-ins alone, not even NumPy, which takes a
file's word for what lies at an address in memory.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class PickledType:
    """What a pickle says of an array's type: its name, such as "u1"."""

    def __init__(self, name: Any = None, *flags: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Leave out byte order and fields: a byte has none."""


class PickledArray:
    """What a pickle says of an array: its shape, its type and its content, row by row or column by column."""

    def __init__(self, *ignored: Any) -> None:
        self.shape, self.type, self.by_columns, self.content = (), None, False, b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.type, self.by_columns, self.content = state

    @classmethod
    def from_buffer(cls, content: Any, type: Any, shape: Any, order: Any) -> "PickledArray":
        array = cls()
        array.__setstate__((1, shape, type, order == "F", content))
        return array

    def to_tensor(self) -> Tensor:
        """Return the array, uint8.

        Raises:
            ValueError: if it is not one of bytes, or its content does not fill its shape.
        """
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content  # Python 2's bytes
        if not isinstance(self.type, PickledType) or self.type.name not in ("u1", "|u1"):
            raise ValueError("an array that is not of bytes")
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        whole = all(isinstance(size, int) and size >= 0 for size in sizes) and math.prod(sizes)
        if not isinstance(content, (bytes, bytearray)) or whole != len(content):
            raise ValueError("an array whose content does not fill its shape")
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        if self.by_columns:
            return values.view(sizes[::-1]).permute(*reversed(range(len(sizes))))
        return values.view(sizes)


class ArrayUnpickler(pickle.Unpickler):
    """Puts a stand-in in the place of each thing that a pickle of arrays calls, and refuses all others."""

    STAND_INS: ClassVar[dict[str, Callable[..., Any]]] = {
        "numpy.ndarray": PickledArray,
        "numpy.dtype": PickledType,
        "numpy.core.multiarray._reconstruct": PickledArray,
        "numpy._core.multiarray._reconstruct": PickledArray,
        "numpy._core.numeric._frombuffer": PickledArray.from_buffer,
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # bytes, as protocol 2 writes them
    }

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.STAND_INS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return self.STAND_INS[f"{module}.{name}"]


def unpickle(content: bytes) -> Any:
    """Read a pickle of plain values and arrays; an array is a `PickledArray`.

    Raises:
        ValueError: if it is damaged, or calls anything.
    """
    try:
        return ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"not a pickle of arrays and plain values ({reason})") from error
