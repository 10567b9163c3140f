"""Requests read in place are those that the long way reads; all else is left to it."""

import re

import numpy as np
import pytest
from fake_plans import Plan, Spec
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors
from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.admission import Admission, admit
from layerserve_server.services.messages import decode
from layerserve_server.services.prediction import decoder
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.layerserve_v1 import V1Tensor

X, IDS, ANY, FLAG = (
    Spec("x", (None, 2), "float32"),
    Spec("ids", (None,), "int64"),
    Spec("any", (None, None), "float32"),
    Spec("flag", (None, 1), "bool"),
)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def tensor(array, name="x", **changes):
    made = tensors.encode(array, name)
    made.MergeFrom(tensor_pb2.Tensor(**changes))
    return made


CASES = {
    "as it is": ([X], [tensor(ROWS)]),
    "without a name": ([X], [tensor(ROWS, "")]),
    "two": ([X, IDS], [tensor(np.arange(3), "ids"), tensor(ROWS)]),
    "other type": ([X], [tensor(ROWS.astype(np.float64))]),
    "no rows": ([X], [tensor(ROWS[:0])]),
    "any length": ([ANY], [tensor(ROWS, "any")]),
    "bool": ([FLAG], [tensor(np.ones((2, 1), bool), "flag")]),
    "wrong length": ([X], [tensor(ROWS[:, :1])]),
    "one axis too many": ([X], [tensor(ROWS[..., None])]),
    "a scalar": ([X], [tensor(np.float32(1.0).reshape(()))]),
    "an unknown name": ([X], [tensor(ROWS, "y")]),
    "twice": ([X], [tensor(ROWS), tensor(ROWS)]),
    "twice, once without a name": ([X], [tensor(ROWS), tensor(ROWS, "")]),
    "one missing": ([X, IDS], [tensor(ROWS)]),
    "other rows": ([X, IDS], [tensor(ROWS), tensor(np.arange(4), "ids")]),
    "negative rows": (
        [X],
        [tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, 2], data=bytes(8))],
    ),
    "too little data": (
        [X],
        [tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 2], data=bytes(8))],
    ),
    "a bool of 2": (
        [FLAG],
        [tensor_pb2.Tensor(name="flag", dtype=tensor_pb2.DATA_TYPE_BOOL, shape=[1, 1], data=b"\2")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_short_way_agrees_with_the_long_one(case):
    specs, given = CASES[case]
    plan = Plan(*specs)
    form = Decoder(Admission(plan, specs, ("y",)))
    try:
        expected = admit(plan, specs, [(one.name, decode(one)) for one in given])
    except InvalidRequestError as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            form.read([V1Tensor(one) for one in given])
        return
    got = form.read([V1Tensor(one) for one in given])
    assert (set(got.arrays), got.rows) == (set(expected.arrays), expected.rows)
    for name, array in expected.arrays.items():
        assert got.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(got.arrays[name], array)


@pytest.mark.parametrize(("case", "in_place"), [("as it is", True), ("two", True), ("other type", False)])
def test_what_fits_is_not_copied(case, in_place):
    specs, given = CASES[case]
    form = Decoder(Admission(Plan(*specs), specs, ("y",)))
    assert (form._read_in_place([V1Tensor(one) for one in given]) is not None) is in_place


def test_only_so_many_patterns_are_kept(monkeypatch):
    """A caller could make any number of them."""
    asked = []
    monkeypatch.setattr(decoder, "MAX_KEPT", 2)
    monkeypatch.setattr(Decoder, "_find_layouts", lambda self, pattern: asked.append(pattern) or (pattern,))
    specs, _ = CASES["as it is"]
    form = Decoder(Admission(Plan(*specs), specs, ("y",)))
    assert [form.layouts(pattern) for pattern in "abbcca"] == [(pattern,) for pattern in "abbcca"]
    assert asked == ["a", "b", "c", "a"], "with the third, those before are forgotten"
    assert len(form._layouts) == 2


def test_further_names_of_inputs_never_hide_the_models_own():
    specs = [X, IDS]
    decoder_of_two = Decoder(Admission(Plan(*specs), specs, ("y",)), {"first": "x", "ids": "x"})
    given = [V1Tensor(tensor(ROWS, "first")), V1Tensor(tensor(np.arange(3), "ids"))]
    for read in (decoder_of_two.read, decoder_of_two._read_in_place):
        got = read(given)
        np.testing.assert_array_equal(got.arrays["x"], ROWS)
        np.testing.assert_array_equal(got.arrays["ids"], np.arange(3))


def test_elements_alone_are_those_of_the_only_input():
    read = Decoder(Admission(Plan(X), [X], ("y",))).read_bytes(ROWS[:1].tobytes())
    assert (read.arrays["x"].tolist(), read.rows) == (ROWS[:1].tolist(), 1)
    # Also if the requested outputs need only one of the inputs.
    of_two = Decoder(Admission(Plan(X), [X, IDS], ("y",)))
    with pytest.raises(InvalidRequestError, match="to be deduced but got 2 inputs in the model: 'x', 'ids'"):
        of_two.read_bytes(ROWS[:1].tobytes())
