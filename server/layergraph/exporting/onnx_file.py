"""ONNX files: self-contained, with the model's names, open axes, and weights under their layers' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from layergraph.errors import ConfigError, ExportError
from layergraph.execution.arrays import as_tensor
from layergraph.execution.engines.onnx.export import HIGHEST_OPSET, LOWEST_OPSET, to_onnx
from layergraph.execution.tracing import clear_graph, trace
from layergraph.exporting.calls import Calls, WithWeights
from layergraph.exporting.cases import Cases, input_axes, output_axes
from layergraph.functional.dtypes import torch_dtype

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Opset of files: the first with LayerNormalization; software that reads ONNX has had it since 2022.
DEFAULT_OPSET = 17
#: Protobuf's limit for a message is 2 GiB; weights of larger models are in a file beside the model.
MOST_BYTES = 2_000_000_000
#: Suffix of that file's name.
DATA = ".data"


def check_opset(opset: int) -> None:
    """Raises ConfigError for an opset that can't be written."""
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise ConfigError(f"export: got opset {opset}, expected {LOWEST_OPSET} to {HIGHEST_OPSET}")


def record(plan: Plan, calls: Calls, cases: Cases, opset: int) -> bytes:
    """The calls as an ONNX model whose inputs are `input_I` and then `weight_I`, and whose outputs are `output_I`."""
    first, second = (
        [as_tensor(a, s) for a, s in zip(arrays, plan.input_specs, strict=True)] for arrays in cases.recorded
    )
    weights = [weight.value for weight in calls.weights.values()]
    specs = (*plan.input_specs, *plan.output_specs)
    batched = all(spec.shape and spec.shape[0] is None for spec in specs)
    traced, _ = trace(WithWeights(calls), [*first, *weights], [*second, *weights], batched=batched, for_file=True)
    try:
        graph = traced.graph.copy()
        # The first input is the module, which is unused.
        graph.eraseInput(0)
        function = torch._C._create_function_from_graph("forward", graph)
        names = [*(f"input_{i}" for i in range(len(first))), *(f"weight_{i}" for i in range(len(weights)))]
        outputs = [f"output_{i}" for i in range(len(calls.outputs))]
        axes = [*input_axes(plan.input_specs), *({} for _ in weights)]
        return to_onnx(function, [*first, *weights], names, axes, outputs=outputs, opset=opset)
    finally:
        clear_graph(traced.graph)


def write(plan: Plan, calls: Calls, cases: Cases, path: Path, *, opset: int, name: str) -> None:
    """Writes an ONNX file, and beside it a file `NAME.data` if the weights take more than MOST_BYTES."""
    onnx = library()
    model = onnx.load_from_string(record(plan, calls, cases, opset))
    graph = model.graph
    graph.name = name
    model.producer_name, model.producer_version = "layergraph", ""
    for node in _nodes(graph):
        # Stack traces, with paths of this machine.
        node.doc_string = ""
    inputs = [spec.name for spec in plan.input_specs]
    outputs = output_names(plan)
    names = {f"input_{i}": name for i, name in enumerate(inputs)}
    names |= {f"output_{i}": name for i, name in enumerate(outputs)}
    arrays = {f"weight_{i}": (name, weight.value) for i, (name, weight) in enumerate(calls.weights.items())}
    used = {value.name for value in graph.input}
    stored = [(given, *entry) for given, entry in arrays.items() if given in used]
    names |= {given: name for given, name, _ in stored}
    _rename(graph, names)
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(map(_value, inputs, plan.input_specs, input_axes(plan.input_specs)))
    graph.output.extend(map(_value, outputs, plan.output_specs, output_axes(plan, cases.compared)))
    graph.initializer.extend(_initializer(name, value) for _, name, value in stored)
    external = sum(value.nbytes for _, _, value in stored) > MOST_BYTES
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}{DATA}", all_tensors_to_one_file=True
    )
    onnx.checker.check_model(str(path))


def output_names(plan: Plan) -> list[str]:
    """Names of a file's outputs: the model's, with `_output` appended to those of inputs.

    All values of an ONNX graph have different names.
    """
    taken = {spec.name for spec in plan.input_specs}
    names = []
    for spec in plan.output_specs:
        name = spec.name
        while name in taken:
            name += "_output"
        taken.add(name)
        names.append(name)
    return names


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, including those of subgraphs, such as the bodies of loops."""
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames values; others that already have one of the new names get a number."""
    new = set(names.values())
    changed = dict(names)

    def renamed(name: str) -> str:
        if name in new and name not in changed:
            number = 1
            while f"{name}_{number}" in new:
                number += 1
            changed[name] = f"{name}_{number}"
            new.add(changed[name])
        return changed.get(name, name)

    def visit(graph: Any) -> None:
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = renamed(value.name)
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [renamed(name) if name else name for name in field]
            for inner in _subgraphs(node):
                visit(inner)

    visit(graph)


def _value(name: str, spec: Any, axes: Mapping[int, str]) -> Any:
    onnx = library()
    shape = [axes.get(axis, size) for axis, size in enumerate(spec.shape)]
    return onnx.helper.make_tensor_value_info(name, _element_type(torch_dtype(spec.dtype)), shape)


def _initializer(name: str, value: torch.Tensor) -> Any:
    onnx = library()
    made = onnx.TensorProto(name=name, dims=value.shape, data_type=_element_type(value.dtype))
    made.raw_data = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return made


def _element_type(dtype: torch.dtype) -> int:
    name = str(dtype).removeprefix("torch.").upper()
    return int(library().TensorProto.DataType.Value({"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE"}.get(name, name)))


def library() -> Any:
    """The package onnx. Raises ExportError if it isn't installed."""
    try:
        import onnx
    except ImportError as missing:
        raise ExportError("the package 'onnx' isn't installed, expected 'layerserve[fast]'") from missing
    return onnx


def reader(plan: Plan, path: Path) -> Callable[[Sequence[Array]], list[Array]]:
    """A function that computes the outputs of a file with ONNX Runtime. Raises ExportError if that isn't installed."""
    opened = _session(str(path))

    def run(arrays: Sequence[Array]) -> list[Array]:
        feed = {s.name: np.ascontiguousarray(a, s.dtype) for a, s in zip(arrays, plan.input_specs, strict=True)}
        found: list[Array] = opened.run(None, feed)
        return found

    return run


def try_out(plan: Plan, calls: Calls, cases: Cases, arrays: Sequence[Array], *, opset: int) -> list[Array]:
    """The outputs of recorded calls."""
    opened = _session(record(plan, calls, cases, opset))
    inputs = [np.ascontiguousarray(a, s.dtype) for a, s in zip(arrays, plan.input_specs, strict=True)]
    given = {f"input_{i}": array for i, array in enumerate(inputs)}
    given |= {f"weight_{i}": weight.value.detach().numpy() for i, weight in enumerate(calls.weights.values())}
    found: list[Array] = opened.run(None, {entry.name: given[entry.name] for entry in opened.get_inputs()})
    return found


def _session(model: str | bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as missing:
        raise ExportError("the package 'onnxruntime' isn't installed, expected it to check the file") from missing
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
