"""ONNX operations that ONNX Runtime lacks or crashes with are rewritten, others stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from layergraph.exporting.kernels import with_kernels
from layergraph.exporting.onnx_file import _session
from onnx import TensorProto, helper


def model(nodes: Sequence[Any], inputs: dict[str, int], outputs: dict[str, int], rank: int) -> Any:
    """A model of nodes between inputs and outputs of these types, all of one rank."""

    def values(types: dict[str, int]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind in types.items()]

    graph = helper.make_graph(list(nodes), "g", values(inputs), values(outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rewritten(made: Any) -> list[str]:
    """The operations after the rewriting."""
    with_kernels(onnx, made, _session)
    onnx.checker.check_model(made)
    return [node.op_type for node in made.graph.node]


@pytest.mark.parametrize(
    ("operation", "kind", "given", "want"),
    [
        ("Add", TensorProto.BOOL, ([True, False], [True, False]), [True, False]),
        ("Mul", TensorProto.BOOL, ([True, False], [True, True]), [True, False]),
        ("Max", TensorProto.INT16, ([100, -3], [3, 5]), [100, 5]),
    ],
)
def test_a_type_without_a_kernel_is_cast(operation: str, kind: int, given: Any, want: Any) -> None:
    made = model([helper.make_node(operation, ["a", "b"], ["y"])], {"a": kind, "b": kind}, {"y": kind}, 1)
    assert rewritten(made) == ["Cast", "Cast", operation, "Cast"]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    feed = {name: np.array(values, dtype) for name, values in zip("ab", given, strict=True)}
    (found,) = _session(made.SerializeToString()).run(None, feed)
    assert found.dtype == dtype
    assert found.tolist() == want


def test_only_inputs_of_the_type_are_cast() -> None:
    """The condition of Where is a truth value in any case."""
    types = {"c": TensorProto.BOOL, "a": TensorProto.BFLOAT16, "b": TensorProto.BFLOAT16}
    made = model([helper.make_node("Where", ["c", "a", "b"], ["y"])], types, {"y": TensorProto.BFLOAT16}, 1)
    assert rewritten(made) == ["Cast", "Cast", "Where", "Cast"]
    assert made.graph.node[2].input[0] == "c"


def test_a_type_with_a_kernel_stays() -> None:
    made = model([helper.make_node("Not", ["a"], ["y"])], {"a": TensorProto.BOOL}, {"y": TensorProto.BOOL}, 1)
    assert rewritten(made) == ["Not"]


def test_kernels_are_looked_up_once_for_all_shapes() -> None:
    nodes = [helper.make_node("Not", ["a"], ["b"]), helper.make_node("Reshape", ["b", "rank"], ["c"])]
    nodes.append(helper.make_node("Not", ["c"], ["y"]))
    made = model(nodes, {"a": TensorProto.BOOL}, {"y": TensorProto.BOOL}, 2)
    made.graph.initializer.append(helper.make_tensor("rank", TensorProto.INT64, [2], [2, 3]))
    opened: list[str] = []

    def opens(alone: bytes) -> None:
        opened.extend(node.op_type for node in onnx.load_from_string(alone).graph.node)

    with_kernels(onnx, made, opens)
    assert sorted(opened) == ["Not", "Reshape"]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_the_first_two_axes_are_exchanged_with_one_more(kind: int) -> None:
    """ONNX Runtime 1.32 crashes when it opens such a model as it is."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    made = model(nodes, {"x": kind, "w": TensorProto.FLOAT}, {"y": TensorProto.FLOAT}, 3)
    assert rewritten(made) == ["Constant", "Unsqueeze", "Transpose", "Squeeze", "Cast", "MatMul"]
    x = np.arange(24, dtype=helper.tensor_dtype_to_np_dtype(kind)).reshape(2, 3, 4)
    w = np.ones((1, 4, 5), "float32")
    (found,) = _session(made.SerializeToString()).run(None, {"x": x, "w": w})
    np.testing.assert_array_equal(found, x.transpose(1, 0, 2) @ w)


def test_other_transpositions_stay() -> None:
    def exchanged(kind: int, axes: list[int]) -> list[str]:
        nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=axes)]
        return rewritten(model(nodes, {"x": kind}, {"y": kind}, len(axes)))

    assert exchanged(TensorProto.FLOAT, [1, 0, 2]) == ["Transpose"]
    assert exchanged(TensorProto.FLOAT16, [0, 2, 1]) == ["Transpose"]
