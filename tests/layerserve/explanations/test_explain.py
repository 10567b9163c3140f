"""Explanations by a fake server, which explains the sum of all inputs: targets, baselines and what is returned."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import Client, InvalidArgument, TensorSpec
from layerserve.testing import FakeServer

A, B = np.ones((2, 3), "float32"), np.full((2, 1), 5, "float32")


@pytest.fixture(scope="module")
def server():
    with FakeServer() as server:
        ends = [TensorSpec("a", (None, 3), "float32"), TensorSpec("b", (None, 1), "float32")]
        server.add_model("m", lambda given: {"y": given["a"]}, ends, [TensorSpec("y", (None, 3), "float32")])
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as client:
        yield client


def test_several_tensors_are_a_dict_and_a_name_is_an_array(client, server):
    found = client.explain("m", {"a": A, "b": B}, 1, baselines={"b": B[:1]})
    assert (found.model, found.version, found.tensors) == ("m", 1, ("a", "b"))
    assert {name: array.tolist() for name, array in found.attributions.items()} == {
        "a": A.tolist(),
        "b": [[0.0], [0.0]],
    }
    assert (found.outputs.tolist(), found.baseline_outputs.tolist()) == ([8, 8], [5, 5])
    alone = client.explain("m", [A, B], 1, to="b")
    assert alone.attributions.tolist() == B.tolist()
    assert alone.by_tensor.keys() == {"b"}
    listed = client.explain("m", [A, B], 1, to=["b"])
    assert listed.attributions.keys() == {"b"}
    rows = found.table().rows
    assert [row[:2] for row in rows] == [("a", "(2, 3)"), ("b", "(2, 1)")]
    assert server.calls[-1][1].steps == 50


TARGETS = [
    (None, []),
    (3, [3]),
    (np.int64(3), [3]),
    ((1, 2), [1, 2]),
    ([1, 2], [1, 2]),
    (np.array([1, 0]), [1, 0]),
    ([(0, 1), (2, 3)], [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("target", "sent"), TARGETS)
def test_a_target_is_sent_as_its_indices(client, server, target, sent):
    client.explain("m", [A, B], target)
    assert list(server.calls[-1][1].target) == sent


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": -1}, "target: got -1, expected an index from 0"),
        ({"target": 1.5}, "target: got 1.5"),
        ({"target": "cat"}, "target: got 'cat'"),
        ({"target": [(0, 1), (2,)]}, "target: got"),
        ({"target": [[[1]]]}, "target: got"),
        ({"n_steps": 0}, "n_steps: got 0, expected a positive integer"),
        ({"to": []}, "got an empty list"),
    ],
)
def test_arguments_that_dont_fit_are_refused(client, options, text):
    with pytest.raises(InvalidArgument, match=text):
        client.explain("m", [A, B], **{"target": 0, **options})
