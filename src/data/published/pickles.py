"""Read pickles of plain values and byte arrays without running code from them.

A pickle names functions that are called while it is read. Here it can call stand-ins only. It cannot even call NumPy,
which would trust a file's claims about memory addresses.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class PickledType:
    """The type of a pickled array: its name, such as "u1"."""

    def __init__(self, name: Any = None, *flags: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and fields, which single bytes do not have."""


class PickledArray:
    """A pickled array: its shape, its type and its content, in row-major or column-major order."""

    def __init__(self, *ignored: Any) -> None:
        self.shape, self.type, self.is_column_major, self.content = (), None, False, b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.type, self.is_column_major, self.content = state

    @classmethod
    def from_buffer(cls, content: Any, type: Any, shape: Any, order: Any) -> "PickledArray":
        array = cls()
        array.__setstate__((1, shape, type, order == "F", content))
        return array

    def to_tensor(self) -> Tensor:
        """Return the array, uint8.

        Raises:
            ValueError: if its items are not bytes, or its content does not match its shape.
        """
        # Python 2's bytes arrive as text.
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        if not isinstance(self.type, PickledType) or self.type.name not in ("u1", "|u1"):
            raise ValueError("an array whose items are not bytes")
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        expected = all(isinstance(size, int) and size >= 0 for size in sizes) and math.prod(sizes)
        if not isinstance(content, (bytes, bytearray)) or expected != len(content):
            raise ValueError("an array whose content does not match its shape")
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        if self.is_column_major:
            return values.view(sizes[::-1]).permute(*reversed(range(len(sizes))))
        return values.view(sizes)


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that replaces the functions which pickled arrays call by stand-ins, and refuses all others."""

    STAND_INS: ClassVar[dict[str, Callable[..., Any]]] = {
        "numpy.ndarray": PickledArray,
        "numpy.dtype": PickledType,
        "numpy.core.multiarray._reconstruct": PickledArray,
        "numpy._core.multiarray._reconstruct": PickledArray,
        "numpy._core.numeric._frombuffer": PickledArray.from_buffer,
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # protocol 2 writes bytes this way
    }

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.STAND_INS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return self.STAND_INS[f"{module}.{name}"]


def unpickle(content: bytes) -> Any:
    """Read a pickle of plain values and arrays; an array is a `PickledArray`.

    Raises:
        ValueError: if it is damaged, or calls any other function.
    """
    try:
        return ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"not a pickle of arrays and plain values ({reason})") from error
