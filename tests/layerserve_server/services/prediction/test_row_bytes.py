"""Elements alone give an array of the input's shape, or an error that says why not."""

import re

import numpy as np
import pytest
from fake_plans import Spec
from layerserve.values import tensors
from layerserve_server.errors import InvalidTensorError
from layerserve_server.services.prediction.row_bytes import row_of


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "batched", "whole"),
    [
        ((None, 2, 3), True, (1, 2, 3)),
        ((None, None, 3), True, (1, 2, 3)),
        ((None,), True, (1,)),
        ((None, 3), False, (2, 3)),
        ((2, 2), False, (2, 2)),
    ],
)
def test_the_shape_follows_from_the_number_of_elements(dtype, shape, batched, whole):
    expected = (np.arange(np.prod(whole)) % 2).reshape(whole)
    expected = expected.astype(tensors.NUMPY_DTYPES[dtype])
    got = row_of(tensors.encode_data(expected, dtype, "x"), Spec("x", shape, dtype), batched=batched)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("shape", "whole"), [((None,), (1,)), ((None, 1), (1, 1))])
def test_a_string_is_all_of_the_bytes(shape, whole):
    got = row_of(b"\0a", Spec("x", shape, "string"), batched=True)
    assert (got.shape, got.tolist()) == (whole, np.array(b"\0a", object).reshape(whole).tolist())


@pytest.mark.parametrize(
    ("data", "shape", "dtype", "text"),
    [
        (bytes(9), (None, 2), "float32", "tensor 'x': got 9 bytes of data, expected 8 for shape [1, 2]"),
        (bytes(16), (None, 2), "float32", "got 16 bytes of data, expected 8"),
        (b"", (None, 2), "float32", "got 0 bytes of data, expected 8"),
        (bytes(9), (None, None, 2), "float32", "got 9 bytes of data, expected 8 for shape [1, 1, 2]"),
        (bytes(8), (None, None, 0), "float32", "got 8 bytes of data, expected 0"),
        (
            bytes(8),
            (None, None, None),
            "float32",
            "there are more than one variable-sized dimension; it has shape (1, None, None)",
        ),
        (b"ab", (None, 2), "string", "raw input 'x', the model must have input shape [1]; it has shape (1, 2)"),
        (b"ab", (None, None), "string", "it has shape (1, None)"),
        (b"\2", (None, 1), "bool", "got a bool of 2"),
    ],
)
def test_an_error_says_what_is_expected(data, shape, dtype, text):
    with pytest.raises(InvalidTensorError, match=re.escape(text)):
        row_of(data, Spec("x", shape, dtype), batched=True)
