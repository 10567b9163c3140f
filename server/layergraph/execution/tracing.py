"""Tracing a program into a TorchScript graph, the input of every engine except eager torch.

Tracing records the operations of one run. The graph is right for other inputs only if no Python code branches on values
of tensors, and if axis lengths that may change stay symbolic while all others become constants. Both are checked here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layergraph.execution.passes.channels_first import cancel_permutations
from layergraph.execution.step import Step
from layergraph.functional.exporting import exporting
from layergraph.functional.runtime_assertions import recording

#: Parts of the warnings by which torch's tracer reports values converted to Python. Conversions of lengths are left
#: out, since `_fix_lengths` handles them.
_VALUE_WARNINGS = ("NumPy", "Python list")

#: Number of inputs of `aten::addcmul` with its `out` argument.
_ADDCMUL_WITH_OUT = 5
#: Position of the axis among the inputs of `aten::repeat_interleave`.
_REPEATED_AXIS = 2


class CannotTraceError(Exception):
    """A program can't be expressed as a graph of tensor operations."""


class Traceable(Protocol):
    """What can be traced: a `Program`, or one that takes its weights as tensors, too."""

    @property
    def steps(self) -> Sequence[Step]: ...
    def __call__(self, tensors: Sequence[Any]) -> list[Any]: ...
    def recording_empty(self, empty: list[str]) -> Traceable: ...


class Traced(torch.nn.Module):
    """A program with its runtime assertions: the outputs, then one boolean scalar per assertion."""

    def __init__(self, program: Traceable) -> None:
        super().__init__()
        self._program = program
        self.assertion_count = 0

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs, then whether each runtime assertion holds."""
        with recording() as assertions:
            outputs = self._program(tensors)
        self.assertion_count = len(assertions)
        # TorchScript outputs must be distinct values: clone an output that is an input or another output.
        return (*distinct(outputs, tensors), *assertions)


class TracedForFile(torch.nn.Module):
    """A program for a file: the outputs alone, with loops recorded for any number of timesteps."""

    assertion_count = 0

    def __init__(self, program: Traceable) -> None:
        super().__init__()
        self._program = program

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs."""
        with recording(), exporting():
            return distinct(self._program(tensors), tensors)


def distinct(outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs, with a copy of each that is an input or an earlier output."""
    seen = {id(tensor) for tensor in inputs}
    result = []
    for output in outputs:
        result.append(output.clone() if id(output) in seen else output)
        seen.add(id(output))
    return tuple(result)


def trace(
    program: Traceable,
    first: Sequence[torch.Tensor],
    second: Sequence[torch.Tensor],
    *,
    batched: bool = False,
    for_file: bool = False,
) -> tuple[Any, int]:
    """Returns the graph (a `torch.jit.ScriptModule`) and how many of its outputs are runtime assertions.

    `first` and `second` are inputs that differ in every length that may change; `batched` means that all inputs have
    the same number of rows. `for_file` leaves out the assertions, and records loops for any number of timesteps. Raises
    CannotTraceError if the program can't be traced.
    """
    if any(getattr(step.call, "training", None) for step in program.steps):
        raise CannotTraceError("a call has training=True, which changes weights outside of torch's inference mode")
    module: Traced | TracedForFile = TracedForFile(program) if for_file else Traced(program)
    module.eval()
    empty = list[str]()
    with torch.no_grad():
        # Run once before tracing: weights are prepared on first use, which may read their values.
        program.recording_empty(empty)(first)
    if empty:
        raise CannotTraceError(f"an intermediate tensor is empty, which crashes some kernels: {empty[0]}")
    with torch.no_grad(), _NoDataAccess():  # type: ignore[no-untyped-call]
        module(*first)
    graphs = []
    for tensors in (first, second):
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            graphs.append(torch.jit.trace(module, tuple(tensors), check_trace=False))  # type: ignore[no-untyped-call]
        for warning in caught:
            if any(text in str(warning.message) for text in _VALUE_WARNINGS):
                raise CannotTraceError(str(warning.message).splitlines()[0])
    traced, other = graphs
    if for_file:
        for graph in graphs:
            torch._C._jit_pass_inline(graph.graph)
    _fix_lengths(traced.graph, other.graph, batched=batched)
    clear_graph(other.graph)
    _spell_out(traced.graph)
    cancel_permutations(traced.graph)
    return traced, module.assertion_count


def clear_graph(graph: Any) -> None:
    """Removes all nodes and outputs of a graph that is no longer needed.

    torch keeps every traced graph until the process ends, and with it the weights, which are constants of the graph.
    """
    for _ in range(len(list(graph.outputs()))):
        graph.eraseOutput(0)
    for node in reversed(list(graph.nodes())):
        node.destroy()


class _NoDataAccess(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that pass a tensor's value to Python."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise CannotTraceError("a layer branches on the values of its data")
        return function(*args, **(kwargs or {}))


def _fix_lengths(graph: Any, other: Any, *, batched: bool) -> None:
    """Replaces all lengths that are equal in both graphs by constants, which engines optimise best.

    A length that differs in the same way as exactly one axis of an input is read from that input: the operations in
    between can then be fused, and torch's own fusion gets lengths of sums wrong.
    """
    known: dict[tuple[int, int], list[tuple[Any, int]]] = {}
    for value, twin in zip(list(graph.inputs())[1:], list(other.inputs())[1:], strict=True):
        for axis, lengths in enumerate(zip(value.type().sizes() or (), twin.type().sizes() or (), strict=True)):
            known.setdefault(lengths, []).append((value, axis))
    if batched:
        # All inputs have the same number of rows, so the first input's is enough.
        known = {lengths: places[:1] if {a for _, a in places} == {0} else places for lengths, places in known.items()}
    sizes, twins = (g.findAllNodes("aten::size") for g in (graph, other))
    if len(sizes) != len(twins):
        raise CannotTraceError("how a layer computes depends on lengths that the model leaves open")
    for node, twin in zip(sizes, twins, strict=True):
        here, there = (n.inputsAt(0).type().sizes() for n in (node, twin))
        axis = node.inputsAt(1).toIValue()
        if here is None or there is None:
            continue
        if here[axis] == there[axis]:
            with graph.insert_point_guard(node):
                length = graph.insertConstant(here[axis])
            node.output().replaceAllUsesWith(length)
        elif len(known.get((here[axis], there[axis]), ())) == 1:
            # If several input axes have these two lengths, the length could come from any of them.
            ((value, place),) = known[here[axis], there[axis]]
            with graph.insert_point_guard(node):
                constant = graph.insertConstant(place)
            node.replaceInput(0, value)
            node.replaceInput(1, constant)
    torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_constant_propagation(graph)


def _spell_out(graph: Any) -> None:
    """Rewrites operations into simpler ones that every exporter supports."""
    for node in graph.findAllNodes("aten::movedim"):
        rank = node.inputsAt(0).type().dim()
        source, destination = (node.inputsAt(i).toIValue() for i in (1, 2))
        axes = _moved(rank, source, destination)
        with graph.insert_point_guard(node):
            permuted = graph.insertNode(graph.create("aten::permute", [node.inputsAt(0), graph.insertConstant(axes)]))
        permuted.output().setType(node.output().type())
        node.output().replaceAllUsesWith(permuted.output())
    for node in graph.findAllNodes("aten::addcmul"):
        # `out` is meaningful in eager torch only.
        if node.inputsSize() == _ADDCMUL_WITH_OUT:
            node.removeInput(_ADDCMUL_WITH_OUT - 1)
    for node in graph.findAllNodes("aten::log_sigmoid"):
        # log(sigmoid(x)), the usual decomposition, is -inf where sigmoid underflows to 0.
        value = node.inputsAt(0)
        with graph.insert_point_guard(node):
            for kind, rest in (("aten::neg", ()), ("aten::softplus", (1.0, 20.0)), ("aten::neg", ())):
                inputs = [value, *map(graph.insertConstant, rest)]
                value = graph.insertNode(graph.create(kind, inputs)).output()
                value.setType(node.output().type())
        node.output().replaceAllUsesWith(value)
    for node in graph.findAllNodes("aten::repeat_interleave"):
        axis = node.inputsAt(_REPEATED_AXIS).toIValue() if node.inputsSize() > _REPEATED_AXIS else None
        if axis is not None and axis < 0:
            # torch's exporter to ONNX makes it positive in place, and with it all other constants of this value.
            with graph.insert_point_guard(node):
                node.replaceInput(_REPEATED_AXIS, graph.insertConstant(axis + node.output().type().dim()))
    for node in graph.findAllNodes("aten::to"):
        before, after = node.inputsAt(0).type(), node.output().type()
        if before.kind() == "TensorType" and before.scalarType() == after.scalarType() is not None:
            node.output().replaceAllUsesWith(node.inputsAt(0))
    torch._C._jit_pass_dce(graph)


def _moved(rank: int, source: Any, destination: Any) -> list[int]:
    """Order of the axes after `movedim`."""
    sources = [axis % rank for axis in (source if isinstance(source, list) else [source])]
    targets = [axis % rank for axis in (destination if isinstance(destination, list) else [destination])]
    placed = dict(zip(targets, sources, strict=True))
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return [placed[axis] if axis in placed else next(rest) for axis in range(rank)]
