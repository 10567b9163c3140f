"""Values of JSON as arrays."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.services.rest.json_arrays import Place, array_of
from layerserve_server.services.rest.json_text import dumps_array, loads

TAKEN = [
    ([[1, 2], [3, 4]], "float32"),
    ([1.5, 2], "float64"),
    ([1e-50, 1], "float16"),
    (3, "int8"),
    ([], "int32"),
    ([[], []], "float32"),
    ([2**63, 1], "uint64"),
    ([2**63 - 1, -(2**63)], "int64"),
    ([2**70], "float32"),
    ([True, False], "bool"),
    ([[0, 1], [1, 0.5]], "float32"),
    ([[0, 1], [1, 0]], "int32"),
    ([math.inf, 1], "float32"),
    ([[math.nan, 0.1], [-math.inf, -0.0]], "float64"),
    ([2**53 + 1, 1], "float64"),
    ([1e-46, 1e-40], "float32"),
    ([-(2**31), 2**31 - 1], "int32"),
    ([[[0.5]]], "float32"),
]


@pytest.mark.parametrize(("value", "dtype"), TAKEN)
def test_numbers_have_the_dtype_asked_for(value, dtype):
    array = array_of(value, dtype, Place("x"))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.array(value, object).astype(dtype))


REFUSED = {
    "float for int": ([1, 2.5], "int32", r"x\[1\]: got the number 2\.5, expected an integer"),
    "whole float for int": ([2.0], "int32", r"x\[0\]: got the number 2\.0"),
    "number for bool": ([True, 1], "bool", r"x\[1\]: got the number 1, expected true or false"),
    "bool for int": ([[1], [True]], "int32", r"x\[1\]\[0\]: got true, expected an integer"),
    "out of range": ([1, 300], "uint8", r"x\[1\]: got the number 300, expected 0 to 255"),
    "below the range": ([[1, 2], [3, -4]], "uint8", r"x\[1\]\[1\]: got the number -4, expected 0 to 255"),
    "too many bits": ([2**64, -1], "int64", r"x\[0\]: got the number 18446744073709551616"),
    "many digits": ([10**400], "int64", r"x\[0\]: got a number of many digits"),
    "many digits for float": ([10**400], "float64", r"x\[0\]: got a number of many digits, which is too large for f"),
    "large for float32": (
        [[0, 1e38], [-1e39, 0]],
        "float32",
        r"x\[1\]\[0\]: got the number -1e\+39, which is too large",
    ),
    "large beside infinity": (
        [math.inf, 70000, math.nan],
        "float16",
        r"x\[1\]: got the number 70000\.0, which is too la",
    ),
    "large without lists": (1e39, "bfloat16", "^x: got the number 1e\\+39, which is too large for bfloat16"),
    "large for bfloat16 only": (
        [3.39e38, -3.4e38],
        "bfloat16",
        r"^x\[1\]: got the number -3\.4e\+38, which is too large",
    ),
    "no list": (300, "uint8", "^x: got the number 300"),
    "number for text": (["a", 1], "string", r"x\[1\]: got the number 1, expected a string"),
    "not base64": ([{"b64": "?"}], "string", r"x\[0\]\.b64"),
    "deep": (json.loads("[" * 40 + "]" * 40), "float32", "more than 32 nested lists"),
}


@pytest.mark.parametrize(("value", "dtype", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_tensor_is_named(value, dtype, text):
    with pytest.raises(InvalidTensorError, match=text):
        array_of(value, dtype, Place("x"))


def test_numbers_of_rows_are_named_by_row_and_key():
    for value, dtype, text in ((-1, "uint8", "-1, expected 0"), (1e39, "float32", r"1e\+39, which is too large")):
        with pytest.raises(InvalidTensorError, match=rf"rows\[1\]\.x\[2\]: got the number {text}"):
            array_of([[0, 0, 0], [0, 0, value]], dtype, Place("rows", ".x"))


@pytest.mark.parametrize("word", [b"null", b"NaN"])
@pytest.mark.parametrize("number", [b"1e400", b"-1E+309", b"9" * 310 + b".5", b"9" * 250 + b".0e0099", b"0.1e310"])
def test_a_number_is_never_read_as_infinity(number, word):
    """Words that only Python's parser knows make no difference."""
    with pytest.raises(InvalidRequestError, match="isn't JSON"):
        loads(b"[" + number + b"," + word + b"]")


def test_the_largest_numbers_are_read_beside_words():
    assert loads(b"[1.7976931348623157e308, -1e+0308, 1e-400, Infinity, NaN]")[:4] == [
        1.7976931348623157e308,
        -1e308,
        0,
        math.inf,
    ]


@pytest.mark.parametrize(
    "text", [b"[" * 10**6, b"[" * 1000, b'{"a":' * 10**6, b"[NaN," + b"[" * 10**5, b"\xff", b"9" * 10**6, b""]
)
def test_hostile_json_is_refused(text):
    with pytest.raises(InvalidRequestError, match="isn't JSON"):
        loads(text)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_numbers_come_back_from_json(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype) / 3 if dtype[0] == "f" else None
    if array is None:
        array = np.ones(shape, dtype)
    back = np.array(json.loads(dumps_array(array.astype(dtype))), dtype).reshape(shape)
    np.testing.assert_array_equal(back, array.astype(dtype))


#: Reads a text that takes more memory than the process may have.
LARGE = """
import resource, sys
from layerserve_server.services.rest.json_text import loads

text = b'{"instances":[' + b'{},' * 666_666 + b'0]}'
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for spare in (2, 6, 16, 25, 40):
    resource.setrlimit(resource.RLIMIT_AS, (used + (spare << 20), resource.RLIM_INFINITY))
    try:
        loads(text)
    except MemoryError:
        print("too little", end=" ")
"""


def test_a_text_that_takes_too_much_memory_is_told_as_such():
    """Whatever the library makes of it."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["too", "little"] * 5
