import pickle
from typing import Any

import numpy as np
import pytest

from src.data.published.pickles import PickledArray, unpickle

ROWS = np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", [ROWS, np.asfortranarray(ROWS), ROWS.T, ROWS[::2, 1:], ROWS[0]])
def test_byte_arrays_load_from_every_protocol(array: np.ndarray, protocol: int) -> None:
    content = unpickle(pickle.dumps({"data": array, "labels": [1, 2]}, protocol))
    assert content["labels"] == [1, 2]
    assert np.array_equal(content["data"].to_tensor().numpy(), array)


def test_python_2_byte_strings_are_read() -> None:
    header = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02K\x03\x86" + kind + b"\x89U\x06\x00\x01\x7f\x80\xfe\xfftb."
    array: PickledArray = unpickle(header + state)
    assert array.to_tensor().tolist() == [[0, 1, 127], [128, 254, 255]]


@pytest.mark.parametrize(
    "state",
    [
        (1, (2, 3), "u1", False, b"123456"),
        (1, (2, 4), np.dtype("u1"), False, b"123456"),
        (1, (-2, -3), np.dtype("u1"), False, b"123456"),
        (1, ("2", 3), np.dtype("u1"), False, b"123456"),
        (1, [2, 3], np.dtype("u1"), False, b"123456"),
        (1, (1,), np.dtype("O"), False, b"12345678"),
        (1, (2, 3), np.dtype("u1"), False, [1, 2, 3, 4, 5, 6]),
        (1, (2, 3), np.dtype("u1"), False, "12345☃"),
    ],
)
def test_inconsistent_array_is_refused(state: Any) -> None:
    array = PickledArray()
    array.__setstate__(unpickle(pickle.dumps(state)))
    with pytest.raises(ValueError, match=r"an array|codec"):
        array.to_tensor()
