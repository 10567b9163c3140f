"""A program as a TorchScript graph: what other engines than Python take.

Tracing records the operations of one run, so it is only right where no Python looks at the data, and where lengths that
change from call to call stay in the graph while all others become numbers. Both are seen to here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layergraph.execution.passes.channels_first import cancel_permutations
from layergraph.execution.program import Program
from layergraph.functional.runtime_assertions import recording

#: How torch's tracer says that data left the graph; that lengths do is taken care of.
_LEFT_THE_GRAPH = ("NumPy", "Python list")

#: Arguments of `addcmul` with the one that says where the result goes.
_ADDCMUL_WITH_OUT = 5


class CannotTraceError(Exception):
    """A program that is no graph of tensor operations."""


class Traced(torch.nn.Module):
    """A program with the demands of its layers: outputs, then one boolean scalar for each demand."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        self.demand_count = 0

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, then whether each demand is met."""
        with recording() as demands:
            outputs = self._program(tensors)
        self.demand_count = len(demands)
        # An output that is an input, or another output, must be a value of its own.
        return (*(output.clone() if _is_any(output, tensors) else output for output in outputs), *demands)


def trace(
    program: Program, first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], *, batched: bool = False
) -> tuple[Any, int]:
    """The graph (a `torch.jit.ScriptModule`) and how many of its outputs are demands.

    `first` and `second` are inputs that differ in every length that may change, `batched` says that all inputs have as
    many rows. Raises CannotTraceError.
    """
    if any(getattr(step.call, "training", None) for step in program.steps):
        raise CannotTraceError("a call asks for training, which changes weights outside of torch's inference mode")
    module, empty = Traced(program).eval(), list[str]()
    with torch.no_grad():
        # Weights are made ready when they are first used; that may look at them.
        program.watched(empty)(first)
    if empty:
        raise CannotTraceError(f"a tensor on the way is empty, which ends the process in some kernels: {empty[0]}")
    with torch.no_grad(), _Looking():  # type: ignore[no-untyped-call]
        module(*first)
    graphs = []
    for tensors in (first, second):
        with warnings.catch_warnings(record=True) as said, torch.no_grad():
            warnings.simplefilter("always")
            graphs.append(torch.jit.trace(module, tuple(tensors), check_trace=False))  # type: ignore[no-untyped-call]
        for warning in said:
            if any(text in str(warning.message) for text in _LEFT_THE_GRAPH):
                raise CannotTraceError(str(warning.message).splitlines()[0])
    traced, other = graphs
    _fix_lengths(traced.graph, other.graph, batched=batched)
    emptied(other.graph)
    _spell_out(traced.graph)
    cancel_permutations(traced.graph)
    return traced, module.demand_count


def emptied(graph: Any) -> None:
    """Takes everything out of a graph that isn't needed any more.

    torch keeps what was ever traced for as long as the process lives, and the weights with it, as constants.
    """
    for _ in range(len(list(graph.outputs()))):
        graph.eraseOutput(0)
    for node in reversed(list(graph.nodes())):
        node.destroy()


class _Looking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that give a value to Python."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise CannotTraceError("a layer looks at its data to decide what to do")
        return function(*args, **(kwargs or {}))


def _is_any(tensor: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    return any(tensor is other for other in others)


def _fix_lengths(graph: Any, other: Any, *, batched: bool) -> None:
    """Makes numbers of all lengths that are the same in both graphs, as engines want them where they can have them.

    Those that differ just as one axis of an input does are read there: what lies between can be fused into larger
    operations then, and torch's own fusion gets lengths of sums wrong.
    """
    known: dict[tuple[int, int], list[tuple[Any, int]]] = {}
    for value, twin in zip(list(graph.inputs())[1:], list(other.inputs())[1:], strict=True):
        for axis, lengths in enumerate(zip(value.type().sizes() or (), twin.type().sizes() or (), strict=True)):
            known.setdefault(lengths, []).append((value, axis))
    if batched:
        # The rows of one input are those of all.
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
            # Of several axes that are as long in both, it could be any.
            ((value, place),) = known[here[axis], there[axis]]
            with graph.insert_point_guard(node):
                constant = graph.insertConstant(place)
            node.replaceInput(0, value)
            node.replaceInput(1, constant)
    torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_constant_propagation(graph)


def _spell_out(graph: Any) -> None:
    """Writes with fewer operations what is there, as every exporter knows it."""
    for node in graph.findAllNodes("aten::movedim"):
        rank = node.inputsAt(0).type().dim()
        source, destination = (node.inputsAt(i).toIValue() for i in (1, 2))
        axes = _moved(rank, source, destination)
        with graph.insert_point_guard(node):
            permuted = graph.insertNode(graph.create("aten::permute", [node.inputsAt(0), graph.insertConstant(axes)]))
        permuted.output().setType(node.output().type())
        node.output().replaceAllUsesWith(permuted.output())
    for node in graph.findAllNodes("aten::addcmul"):
        # Where the result goes is eager torch's matter.
        if node.inputsSize() == _ADDCMUL_WITH_OUT:
            node.removeInput(_ADDCMUL_WITH_OUT - 1)
    for node in graph.findAllNodes("aten::log_sigmoid"):
        # As the logarithm of what is rounded to 0, it would be infinite.
        value = node.inputsAt(0)
        with graph.insert_point_guard(node):
            for kind, rest in (("aten::neg", ()), ("aten::softplus", (1.0, 20.0)), ("aten::neg", ())):
                inputs = [value, *map(graph.insertConstant, rest)]
                value = graph.insertNode(graph.create(kind, inputs)).output()
                value.setType(node.output().type())
        node.output().replaceAllUsesWith(value)
    for node in graph.findAllNodes("aten::to"):
        before, after = node.inputsAt(0).type(), node.output().type()
        if before.kind() == "TensorType" and before.scalarType() == after.scalarType() is not None:
            node.output().replaceAllUsesWith(node.inputsAt(0))
    torch._C._jit_pass_dce(graph)


def _moved(rank: int, source: Any, destination: Any) -> list[int]:
    """The order of axes after `movedim`."""
    sources = [axis % rank for axis in (source if isinstance(source, list) else [source])]
    targets = [axis % rank for axis in (destination if isinstance(destination, list) else [destination])]
    placed = dict(zip(targets, sources, strict=True))
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return [placed[axis] if axis in placed else next(rest) for axis in range(rank)]
