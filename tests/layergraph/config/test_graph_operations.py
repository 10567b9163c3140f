"""Nodes of TensorFlow's graphs give TensorFlow's numbers; every node in the table is compared."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.config.graph_nodes import _node, graph_node
from layergraph.config.graph_operations import NODES
from layergraph.config.spec import CallSpec, TensorRef
from layergraph.config.tensorflow_ops import UnknownFunctionError
from layergraph.functional.nest import flatten, map_structure
from layergraph.ops.table import OPERATIONS

FIXTURES = Path(__file__).parents[2] / "fixtures"
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
    # A batch normalization node has further outputs that only its gradient needs.
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
        ({"op": "Cast"}, {}, "operation 'Cast' of TensorFlow can't be read: malformed node"),
        ({"op": "Transpose"}, {"9": [0]}, "can't be read: malformed node"),
        (
            {"op": "Conv2D", "attr": {"padding": {"s": "RVhQTElDSVQ="}}},
            {"1": [[[[1.0]]]]},
            "operation 'Conv2D' of TensorFlow is not supported with explicit paddings",
        ),
        ({"op": "FusedBatchNormV3"}, {}, "'FusedBatchNormV3' of TensorFlow is not supported in training mode"),
        (
            {"op": "MatrixDiagPartV3"},
            {"1": [0, 1], "2": 0.0},
            "operation 'MatrixDiagPartV3' of TensorFlow is not supported with several diagonals",
        ),
        ({"op": "MatrixDiagPartV3"}, {"1": 0, "2": 3.0}, "with several diagonals"),
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


# Bytes of a protobuf.


def varint(number: int) -> bytes:
    found = bytearray()
    number %= 2**64
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number: int, value: int | float | bytes) -> bytes:
    """A protobuf field: an integer, the four bytes of a float, or a byte string."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def node_bytes(op: str, **attributes: bytes) -> bytes:
    """A NodeDef, with a name and a device that are ignored."""
    entries = [field(5, field(1, name.encode()) + field(2, value)) for name, value in attributes.items()]
    return field(1, b"name") + field(2, op.encode()) + field(4, b"/device:CPU:0") + b"".join(entries)


ATTRIBUTES = {
    "listed": (field(1, b"".join(field(3, n) for n in (1, 300, -2))), [1, 300, -2]),
    "packed": (field(1, field(3, b"".join(map(varint, (1, 300, -2))))), [1, 300, -2]),
    "floats": (field(1, field(4, struct.pack("<f", 2.0))), []),
    "text": (field(2, b"SAME"), "SAME"),
    "number": (field(3, 2**40), 2**40),
    "negative": (field(3, -5), -5),
    "least": (field(3, -(2**63)), -(2**63)),
    "largest": (field(3, 2**63 - 1), 2**63 - 1),
    "float": (field(4, 2.0), 2.0),
    "yes": (field(5, 1), True),
    "no": (field(5, 0), False),
    "type": (field(6, 3), "int32"),
    "unknown_type": (field(6, 99), None),
    "shape": (field(7, b""), None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("written", ["text", "base64"])
def test_a_node_is_read_from_a_protobuf(written: str) -> None:
    data = node_bytes("Mean", **{name: value for name, (value, _) in ATTRIBUTES.items()})
    if written == "text":
        # Text in a config has no surrogates, so bytes above 127 occur in base64 only.
        data = node_bytes("Mean", **{name: ATTRIBUTES[name][0] for name in ("text", "float", "yes", "type")})
    node = _node(data.decode() if written == "text" else base64.b64encode(data).decode())
    assert node.op == "Mean"
    assert node.attributes == {name: expected for name, (_, expected) in ATTRIBUTES.items() if name in node.attributes}
    assert len(node.attributes) == (4 if written == "text" else len(ATTRIBUTES))


def test_unknown_fields_of_a_protobuf_are_passed_over() -> None:
    eight, four = varint(9 << 3 | 1) + b"\xff" * 8, varint(10 << 3 | 5) + b"\xff" * 4
    data = eight + four + field(11, 2**64 - 1) + field(2, b"Relu") + field(12, b"\xff" * 200)
    assert _node(base64.b64encode(data).decode()).op == "Relu"


GOOD = node_bytes("Mean", a=field(3, 300))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        field(1, b"name"),  # without an operation
        GOOD[:-1],
        GOOD + b"\x80",
        field(2, b"Mean") + varint(9 << 3 | 1) + b"1234567",
        field(2, b"Mean") + varint(9 << 3 | 3),
        field(2, b"Mean") + varint(0 << 3) + b"\1",
        field(2, b"Mean") + varint(9 << 3) + b"\x80" * 10 + b"\1",
        field(2, 3),
        field(2, b"\xff"),
        field(2, b"Mean") + field(5, 3),
        node_bytes("Mean", a=field(1, 3)),
        node_bytes("Mean", a=field(2, 3)),
        node_bytes("Mean", a=field(3, b"3")),
        node_bytes("Mean", a=field(4, b"123")),
        field(2, b"Mean") + field(5, field(1, 3) + field(2, b"")),
    ],
)
def test_bytes_that_are_no_node_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownFunctionError, match="node_def can't be read: expected a NodeDef"):
        _node(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    "node_def",
    [
        None,
        3,
        ["op"],
        "not base64!",
        "A" * 1_000_004,
        "\ud800",
        *(
            {"op": "Mean", "attr": {"a": value}}
            for value in ({"i": "x"}, {"i": [1]}, {"i": "9" * 5000}, {"type": []}, {"s": "²"}, {"list": {"i": [None]}})
        ),
    ],
)
def test_what_has_no_form_of_a_node_is_refused(node_def: Any) -> None:
    with pytest.raises(UnknownFunctionError, match="node_def can't be read: expected a NodeDef"):
        _node(node_def)


def test_attributes_in_json_are_plain_values() -> None:
    attributes = {
        "i": {"i": "-3"},
        "type": {"type": "DT_HALF"},
        "odd_type": {"type": "DT_RESOURCE"},
        "s": {"s": base64.b64encode(b"VALID").decode()},
        "list": {"list": {"i": ["1", "2"]}},
        "no_list": {"list": 3},
        "b": {"b": True},
        "f": {"f": 0.5},
        "nothing": {},
        "number": 3,
    }
    assert _node({"op": "Mean", "attr": attributes}).attributes == {
        "i": -3,
        "type": "float16",
        "odd_type": None,
        "s": "VALID",
        "list": [1, 2],
        "no_list": [],
        "b": True,
        "f": 0.5,
        "nothing": None,
        "number": None,
    }
    assert _node({"op": "Mean", "attr": 3}).attributes == {}


def test_constants_stand_at_their_places_between_the_tensors() -> None:
    refs = [TensorRef("x", 0, 0), TensorRef("y", 0, 0)]
    _, _, call = graph_node({"op": "Pack"}, {"0": 1.0, "2": 2.0, "4": 3.0}, CallSpec((refs,)))
    assert call.args == ([1.0, refs[0], 2.0, refs[1], 3.0],)
    _, _, call = graph_node({"op": "Pack"}, None, CallSpec((refs[0],)))
    assert call.args == ([refs[0]],)


def test_a_mean_over_no_axis_is_what_it_is_of() -> None:
    name, options, call = graph_node({"op": "Mean"}, {"1": []}, CallSpec(([TensorRef("x", 0, 0)],)))
    assert (name, options, call.args) == ("tf>Identity", {}, (TensorRef("x", 0, 0),))
