"""Nodes of TensorFlow's graphs give TensorFlow's numbers; each that the table has is compared with it."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.config.graph_nodes import _node, graph_node
from layergraph.config.graph_operations import NODES
from layergraph.config.spec import CallSpec, TensorRef
from layergraph.config.tensorflow_ops import UnknownFunctionError
from layergraph.functional.structure import flatten, map_structure
from layergraph.ops.table import OPERATIONS

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = json.loads((FIXTURES / "tensorflow_graph_operations.json").read_text())
#: A name that no node has: TensorFlow divides a sum.
WITHOUT_KERNEL = {"UnsortedSegmentMean"}


def read(described: list[Any]) -> np.ndarray:
    """An array of the fixture."""
    dtype, shape, values = described
    if dtype.startswith("complex"):
        pairs = np.array(values, "float64").reshape(-1, 2)
        return (pairs[:, 0] + 1j * pairs[:, 1]).reshape(shape).astype(dtype)
    return np.array(values, dtype).reshape(shape)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i]['node_def']['op']}")
def test_a_node_gives_tensorflows_numbers(number: int) -> None:
    case = CASES[number]
    arrays = [read(described) for described in case["inputs"]]
    call = CallSpec(([TensorRef("x", 0, i) for i in range(len(arrays))],))
    name, options, call = graph_node(case["node_def"], case["constants"], call)

    def filled(leaf: Any) -> Any:
        return arrays[leaf.tensor] if isinstance(leaf, TensorRef) else leaf

    args = [map_structure(filled, arg) for arg in call.args]
    kwargs = {key: map_structure(filled, value) for key, value in call.kwargs.items()}
    results = flatten(OPERATIONS[name](name="operation", **options)(*args, **kwargs))
    # A batch normalisation's node also gives what only its gradient needs.
    expected = [read(described) for described in case["outputs"]]
    assert len(results) in (1, len(expected))
    for got, want in zip(results, expected, strict=False):
        got = got.detach().numpy()
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("node", "constants", "text"),
    [
        ({"op": "WriteFile"}, {}, "operation 'WriteFile' of TensorFlow is not supported"),
        ({"op": "Cast"}, {}, "operation 'Cast' of TensorFlow has a form that can't be read"),
        ({"op": "Transpose"}, {"9": [0]}, "has a form that can't be read"),
    ],
)
def test_what_is_no_known_node_is_refused(node: dict[str, Any], constants: dict[str, Any], text: str) -> None:
    with pytest.raises(UnknownFunctionError, match=text):
        graph_node({"name": "n", **node}, constants, CallSpec(([TensorRef("x", 0, 0)],)))


def test_every_node_of_the_table_is_compared() -> None:
    compared = {case["node_def"]["op"] for case in CASES} | WITHOUT_KERNEL
    for path in (FIXTURES / "tensorflow_nodes").glob("*.h5"):
        with h5py.File(path) as file:
            layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        for layer in layers:
            if layer["class_name"] == "TensorFlowOpLayer":
                compared.add(_node(layer["config"]["node_def"]).op)
    assert not NODES.keys() - compared
