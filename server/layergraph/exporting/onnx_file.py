"""ONNX files: self-contained, with the model's names, open axes, and weights under their layers' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from layergraph.exporting.kernels import subgraphs, with_kernels
from layergraph.functional.dtypes import torch_dtype

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan
    from layergraph.functional.tensor import TensorSpec

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


def record(plan: Plan, calls: Calls, cases: Cases, opset: int) -> Any:
    """The calls as an ONNX model whose inputs are `input_I` and then `weight_I`, and whose outputs are `output_I`."""
    first, second = (
        [as_tensor(a, s) for a, s in zip(arrays, file_inputs(plan), strict=True)] for arrays in cases.recorded
    )
    weights = [weight.value for weight in calls.weights.values()]
    specs = (*plan.input_specs, *plan.output_specs)
    batched = all(spec.shape and spec.shape[0] is None for spec in specs)
    function = WithWeights(calls, [torch_dtype(spec.dtype) for spec in plan.input_specs])
    traced, _ = trace(function, [*first, *weights], [*second, *weights], batched=batched, for_file=True)
    try:
        graph = traced.graph.copy()
        # The first input is the module, which is unused.
        graph.eraseInput(0)
        recorded = torch._C._create_function_from_graph("forward", graph)
        names = [*(f"input_{i}" for i in range(len(first))), *(f"weight_{i}" for i in range(len(weights)))]
        outputs = [f"output_{i}" for i in range(len(calls.outputs))]
        axes = [*input_axes(plan.input_specs), *({} for _ in weights)]
        written = to_onnx(recorded, [*first, *weights], names, axes, outputs=outputs, opset=opset)
    finally:
        clear_graph(traced.graph)
    model = library().load_from_string(written)
    with_kernels(library(), model, _session)
    return model


def write(plan: Plan, calls: Calls, cases: Cases, path: Path, *, opset: int, name: str) -> None:
    """Writes an ONNX file, and beside it a file `NAME.data` if the weights take more than MOST_BYTES."""
    onnx = library()
    model = record(plan, calls, cases, opset)
    graph = model.graph
    graph.name = name
    model.producer_name, model.producer_version = "layergraph", ""
    for node in _nodes(graph):
        # Stack traces, with paths of this machine.
        node.doc_string = ""
    inputs, outputs = file_inputs(plan), file_outputs(plan)
    names = {f"input_{i}": spec.name for i, spec in enumerate(inputs)}
    names |= {f"output_{i}": spec.name for i, spec in enumerate(outputs)}
    arrays = {f"weight_{i}": (name, weight.value) for i, (name, weight) in enumerate(calls.weights.items())}
    used = {value.name for value in graph.input}
    stored = [(given, *entry) for given, entry in arrays.items() if given in used]
    names |= {given: name for given, name, _ in stored}
    _rename(graph, names)
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(map(_value, inputs, input_axes(inputs)))
    graph.output.extend(map(_value, outputs, output_axes(plan, cases.compared)))
    graph.initializer.extend(_initializer(name, value) for _, name, value in stored)
    external = sum(value.nbytes for _, _, value in stored) > MOST_BYTES
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}{DATA}", all_tensors_to_one_file=True
    )
    onnx.checker.check_model(str(path))


def file_inputs(plan: Plan) -> list[TensorSpec]:
    """A file's inputs: the model's, with float32 for bfloat16, which NumPy and so most users of ONNX lack."""
    return [_with_numpy_type(spec) for spec in plan.input_specs]


def file_outputs(plan: Plan) -> list[TensorSpec]:
    """A file's outputs: the model's, with float32 for bfloat16, and with `_output` appended to the names of inputs.

    All values of an ONNX graph have different names.
    """
    taken = {spec.name for spec in plan.input_specs}
    specs = []
    for spec in plan.output_specs:
        name = spec.name
        while name in taken:
            name += "_output"
        taken.add(name)
        specs.append(replace(_with_numpy_type(spec), name=name))
    return specs


def _with_numpy_type(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, including those of subgraphs, such as the bodies of loops."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


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
            for inner in subgraphs(node):
                visit(inner)

    visit(graph)


def _value(spec: TensorSpec, axes: Mapping[int, str]) -> Any:
    onnx = library()
    shape = [axes.get(axis, size) for axis, size in enumerate(spec.shape)]
    return onnx.helper.make_tensor_value_info(spec.name, _element_type(torch_dtype(spec.dtype)), shape)


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
        raise ExportError("requires onnx: pip install onnx") from missing
    return onnx


def reader(plan: Plan, path: Path) -> Callable[[Sequence[Array]], list[Array]]:
    """A function that computes the outputs of a file with ONNX Runtime. Raises ExportError if that isn't installed."""
    opened = _session(str(path))

    def run(arrays: Sequence[Array]) -> list[Array]:
        feed = {s.name: np.ascontiguousarray(a, s.dtype) for a, s in zip(arrays, file_inputs(plan), strict=True)}
        found: list[Array] = opened.run(None, feed)
        return found

    return run


def try_out(plan: Plan, calls: Calls, cases: Cases, arrays: Sequence[Array], *, opset: int) -> list[Array]:
    """The outputs of recorded calls."""
    model = record(plan, calls, cases, opset)
    weights = {f"weight_{i}": weight.value for i, weight in enumerate(calls.weights.values())}
    # NumPy arrays have no bfloat16.
    model.graph.initializer.extend(
        _initializer(name, value) for name, value in weights.items() if value.dtype == torch.bfloat16
    )
    opened = _session(model.SerializeToString())
    inputs = [np.ascontiguousarray(a, s.dtype) for a, s in zip(arrays, file_inputs(plan), strict=True)]
    given = {f"input_{i}": array for i, array in enumerate(inputs)}
    given |= {name: value.detach().numpy() for name, value in weights.items() if value.dtype != torch.bfloat16}
    names = [entry.name for entry in opened.get_inputs()]
    found: list[Array] = opened.run(None, {name: given[name] for name in names if name in given})
    return found


def _session(model: str | bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as missing:
        raise ExportError("requires onnxruntime, which checks the file: pip install onnxruntime") from missing
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as wrong:
        lacking = re.search(r"Could not find an implementation for (\w+)", str(wrong))
        if lacking is None:
            raise
        raise RuntimeError(f"ONNX Runtime has no {lacking[1]} for a type that the model computes in") from wrong
