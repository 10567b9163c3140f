"""What engines are made from: a plan, and its graph, which is recorded once for all of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from layergraph.execution.program import Program
from layergraph.execution.tracing import emptied, trace

Array: TypeAlias = "np.ndarray[Any, Any]"

_REMAINDERS = ("aten::remainder", "aten::fmod", "aten::floor_divide")
#: One at a time: a recording changes what this process does with warnings.
_tracing = threading.Lock()


class UnfitError(Exception):
    """An engine can't run a plan, or isn't installed; the text says why."""


class Engine(Protocol):
    """Carries a plan out. Many threads can call one at a time."""

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """The outputs, then the demands, for arrays of the inputs' types in the plan's order."""


class ExportedGraph:
    """A program, and inputs for it in two sizes that differ in every length that may change.

    threads   that an engine may use
    batched   whether rows of several batches can be joined, and a batch taken apart
    shared    whether other work has the same cores, so that an engine's threads must not wait busily for the next call
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
        self._others = tuple(torch.from_numpy(array) for array in second)

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
        """A copy of the graph as a `torch.jit.ScriptFunction`, which goes with its users. Raises CannotTraceError."""
        graph = self.graph.graph.copy()
        # The module: weights are constants, so nothing is asked of it.
        graph.eraseInput(0)
        return torch._C._create_function_from_graph("forward", graph)

    def with_threads(self, threads: int) -> ExportedGraph:
        """The same graph for so many threads; it goes when this source is released. Raises CannotTraceError."""
        assert self.graph is not None  # recorded now, so that both have the one recording
        other = copy(self)
        other.threads = threads
        return other

    def release(self) -> None:
        """Lets the graph's weights go: no more engines are made from it."""
        if "_traced" in self.__dict__:
            emptied(self.__dict__.pop("_traced")[0].graph)

    @property
    def kinds(self) -> set[str]:
        """The graph's operations, with their namespaces. Raises CannotTraceError."""
        return {node.kind() for node in self.graph.graph.nodes()}

    @property
    def has_halves(self) -> bool:
        """Whether the graph computes anything in floating point of 16 bits. Raises CannotTraceError."""
        return any(
            value.type().kind() == "TensorType" and value.type().scalarType() in ("Half", "BFloat16")
            for node in self.graph.graph.nodes()
            for value in node.outputs()
        )

    @property
    def has_remainders(self) -> bool:
        """Whether the graph computes remainders, or quotients rounded down, of floats. Raises CannotTraceError.

        torch's are exact. Others divide and round, and give 0 for 6 mod 0.1, whose remainder is nearly 0.1.
        """
        return any(
            node.output().type().scalarType() in ("Float", "Double")
            and (node.kind() in _REMAINDERS or node.inputsAt(node.inputsSize() - 1).toIValue() == "floor")
            for kind in (*_REMAINDERS, "aten::div")
            for node in self.graph.graph.findAllNodes(kind)
        )

    @property
    def demand_count(self) -> int:
        """How many of the graph's outputs are demands. Raises CannotTraceError."""
        return self._traced[1]
