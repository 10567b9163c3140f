"""The input of all engines: a program and its graph, which is traced once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any

import torch

from layergraph.execution.eager_plan import EagerPlan
from layergraph.execution.engines.engine import Array
from layergraph.execution.program import Program
from layergraph.execution.samples import Sampler
from layergraph.execution.tracing import clear_graph, trace

_REMAINDERS = ("aten::remainder", "aten::fmod", "aten::floor_divide")
#: Serialises tracing, which changes the process's warning filters.
_tracing = threading.Lock()


class ExportedGraph:
    """A program, and sample inputs of two sizes that differ in every length that may change.

    threads   number of threads that a call of an engine may use
    streams   number of calls that an engine must be able to compute at the same time
    batched   whether rows are independent, so that batches can be joined and split
    shared    whether other work uses the same cores, so that an engine's threads must not spin between calls
    """

    def __init__(
        self,
        program: Program,
        first: Sequence[Array],
        second: Sequence[Array],
        threads: int,
        *,
        batched: bool = False,
        shared: bool = False,
    ) -> None:
        self.program = program
        self.batched = batched
        self.shared = shared
        self.samples = tuple(torch.from_numpy(array) for array in first)
        self.threads = threads
        self.streams = 1
        self._others = tuple(torch.from_numpy(array) for array in second)
        #: The graph in ONNX format, once an engine has exported it.
        self.onnx: bytes | None = None

    @property
    def open_axes(self) -> list[dict[int, str]]:
        """For each input, a name for every axis whose length may change."""
        pairs = zip(self.samples, self._others, strict=True)
        return [
            {axis: f"length_{i}_{axis}" for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]}
            for i, (a, b) in enumerate(pairs)
        ]

    @cached_property
    def _traced(self) -> tuple[Any, int]:
        with _tracing:
            return trace(self.program, self.samples, self._others, batched=self.batched)

    @property
    def graph(self) -> Any:
        """The program as a `torch.jit.ScriptModule`. Raises CannotTraceError."""
        return self._traced[0]

    @property
    def function(self) -> Any:
        """A copy of the graph as a `torch.jit.ScriptFunction`, freed with its users. Raises CannotTraceError."""
        graph = self.graph.graph.copy()
        # The first input is the module, which is unused since weights are constants.
        graph.eraseInput(0)
        return torch._C._create_function_from_graph("forward", graph)

    def single_threaded(self) -> ExportedGraph:
        """The same graph for calls of one thread, as many at a time as this one's calls have threads.

        It is released with this one. Raises CannotTraceError.
        """
        assert self.graph is not None  # traced now, so that both share one trace
        other = copy(self)
        other.threads, other.streams = 1, self.threads
        return other

    def release(self) -> None:
        """Frees the graph's weights; no more engines can be built from it."""
        self.onnx = None
        if "_traced" in self.__dict__:
            clear_graph(self.__dict__.pop("_traced")[0].graph)

    @property
    def kinds(self) -> set[str]:
        """Kinds of the graph's operations, with their namespaces. Raises CannotTraceError."""
        return {node.kind() for node in self.graph.graph.nodes()}

    @property
    def has_halves(self) -> bool:
        """Whether any operation of the graph computes in float16 or bfloat16. Raises CannotTraceError."""
        return any(
            value.type().kind() == "TensorType" and value.type().scalarType() in ("Half", "BFloat16")
            for node in self.graph.graph.nodes()
            for value in node.outputs()
        )

    @property
    def has_remainders(self) -> bool:
        """Whether the graph computes remainders or floor divisions of floats. Raises CannotTraceError.

        torch's are exact. Other engines divide and round: they give 0 for 6 mod 0.1, whose exact remainder is near 0.1.
        """
        return any(
            node.output().type().scalarType() in ("Float", "Double")
            and (node.kind() in _REMAINDERS or node.inputsAt(node.inputsSize() - 1).toIValue() == "floor")
            for kind in (*_REMAINDERS, "aten::div")
            for node in self.graph.graph.findAllNodes(kind)
        )

    @property
    def assertion_count(self) -> int:
        """How many of the graph's outputs are runtime assertions. Raises CannotTraceError."""
        return self._traced[1]


def exported_graph(plan: EagerPlan, sampler: Sampler, threads: int, *, joined: bool, shared: bool) -> ExportedGraph:
    """What engines of a plan are built from, with calls of shared layers merged if `joined`."""
    program = plan.inference_program(packed=False, joined=joined)
    first, second = (sampler.rows(count, other=count == 3) for count in (2, 3))
    return ExportedGraph(program, first, second, threads, batched=plan.batched, shared=shared)
