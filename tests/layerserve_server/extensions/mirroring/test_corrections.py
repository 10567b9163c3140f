"""Corrections of sampled requests are checked before a dataset is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from layergraph.functional.tensor import TensorSpec
from layerserve.v1 import datasets_pb2
from layerserve.values import tensors
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.mirroring import service
from layerserve_server.extensions.mirroring.service import MAX_ID


def corrected(*corrections, outputs=("y",)):
    specs = [TensorSpec(name, (None, 1), "float32") for name in outputs]
    request = datasets_pb2.MakeDatasetRequest()
    for id, targets in corrections:
        request.corrections.add(request_id=id, targets=targets)
    return service._corrections(request, specs)


def target(name="y", value=1.0):
    return tensors.encode(np.array([value]), name)


REFUSED = {
    "no id": (lambda: corrected(("", [target()])), "request_id: got 0 characters, expected 1 to"),
    "long id": (lambda: corrected(("a" * (MAX_ID + 1), [target()])), f"request_id: got {MAX_ID + 1} characters"),
    "no targets": (lambda: corrected(("a", [])), "request 'a': got no targets, expected some for "),
    "two targets": (lambda: corrected(("a", [target()] * 2)), "request 'a': got two targets for 'y', expected"),
    "another target": (lambda: corrected(("a", [target("z")])), "request 'a': got a target for 'z', expected"),
    "unnamed target": (
        lambda: corrected(("a", [target("")]), outputs=("y", "z")),
        "request 'a': got a target for '', expected",
    ),
    "text": (lambda: corrected(("a", [target(value="b")])), "request 'a', 'y': got text, expected numbers"),
}


@pytest.mark.parametrize(("ask", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_named(ask, text):
    with pytest.raises(InvalidRequestError, match=text):
        ask()


def test_a_call_has_only_so_many_corrections(monkeypatch):
    monkeypatch.setattr(service, "MAX_CORRECTIONS", 2)
    assert len(corrected(*[("a", [target()])] * 2)) == 2
    with pytest.raises(InvalidRequestError, match="corrections: got 3, expected at most 2 in a call"):
        corrected(*[("a", [target()])] * 3)


def test_what_is_just_within_the_limits_is_taken():
    assert len(corrected(("a" * MAX_ID, [target()]))) == 1
    assert corrected(("a", [target("")]))[0].targets.keys() == {"y"}, "the only output"
