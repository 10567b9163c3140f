"""Elements in chunks are those that NumPy reads at once."""

import numpy as np
import pytest
from layerserve_server.transport import chunking
from layerserve_server.transport.chunking import as_array


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_])
def test_all_elements_are_read(monkeypatch, count, dtype):
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", 3)
    values = [index % 2 for index in range(count)]
    array = as_array(values, dtype)
    np.testing.assert_array_equal(array, np.array(values, dtype))
    assert array.dtype == dtype


def test_no_element_is_wrapped(monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", 3)
    with pytest.raises(OverflowError):
        as_array([1, 2, 3, 300], np.int8)


def test_no_more_is_read_at_once_than_a_piece(monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_ELEMENTS", 3)

    class Values(list):
        def __getitem__(self, at):
            assert at.stop - at.start <= 3
            return super().__getitem__(at)

        def __iter__(self):
            raise AssertionError("all elements are read at once")

    assert as_array(Values(range(10)), np.int64).tolist() == list(range(10))
