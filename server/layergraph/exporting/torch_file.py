"""`.pt2` files of torch.export: a program from a dict of inputs to a dict of outputs, by the model's names."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.execution.tracing import distinct
from layergraph.exporting.calls import Calls
from layergraph.exporting.cases import Cases
from layergraph.exporting.simpler import ALWAYS, SimplerOperations
from layergraph.functional.exporting import exporting
from layergraph.functional.runtime_assertions import recording
from layergraph.functional.weight import Weight

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

Array: TypeAlias = "np.ndarray[Any, Any]"


class CallsModule(torch.nn.Module):
    """The calls, with the weights as buffers."""

    def __init__(self, calls: Calls, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._calls = calls
        self._names = (inputs, outputs)
        self._buffer_names: dict[int, str] = {}
        counts: Counter[str] = Counter()
        for name, weight in calls.weights.items():
            plain = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "weight"
            plain = f"w_{plain}" if plain[0].isdigit() or hasattr(self, plain) else plain
            counts[plain] += 1
            unique = plain if counts[plain] == 1 else f"{plain}__{counts[plain]}"
            # Files hold whole memory blocks, in the order of the axes.
            self.register_buffer(unique, weight.value.detach().clone(memory_format=torch.contiguous_format))
            self._buffer_names[id(weight)] = unique

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the outputs by name."""

        def value(weight: Weight) -> torch.Tensor:
            found: torch.Tensor = getattr(self, self._buffer_names[id(weight)])
            return found

        names, output_names = self._names
        tensors = [inputs[name] for name in names]
        with recording(), exporting(), SimplerOperations(ALWAYS):
            outputs = self._calls.program(value)(tensors)
        return dict(zip(output_names, distinct(outputs, tensors), strict=True))


class RefusedLengthsError(Exception):
    """A program refuses lengths, such as those of which a window would leave only one step; the text has the condition.

    torch.export takes lengths of 1 as a case of their own, and checks that there are none.
    """


def _plain(guard: str) -> str:
    """A guard as a condition on the inputs: `x.shape[1] // 4 != 1`."""
    found = re.search(r"Guard failed: (.*)", guard)
    text = found[1] if found else guard
    return re.sub(r"inputs\['(.*?)'\]\.size\(\)", r"\1.shape", text)[:200]


def record(plan: Plan, calls: Calls, cases: Cases) -> Any:
    """The calls as a `torch.export.ExportedProgram`, with all open axes dynamic."""
    inputs = [spec.name for spec in plan.input_specs]
    outputs = (
        [spec.name for spec in plan.output_specs]
        if len(calls.outputs) == len(plan.output_specs)
        else [str(i) for i in range(len(calls.outputs))]
    )
    module = CallsModule(calls, inputs, outputs).eval()
    tensors = {s.name: as_tensor(a, s) for a, s in zip(cases.recorded[0], plan.input_specs, strict=True)}
    dynamic = {
        spec.name: {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if size is None}
        for spec in plan.input_specs
    }
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module, (tensors,), dynamic_shapes=(dynamic,), strict=False)
    except Exception as wrong:
        fixed = re.findall(r"L\['inputs'\]\['(.*?)'\]\.size\(\)\[(\d+)\]", str(wrong).partition("!")[0])
        if not fixed or "Constraints violated" not in str(wrong):
            raise
        lengths = ", ".join(f"{name}.shape[{axis}]" for name, axis in dict.fromkeys(fixed))
        raise ValueError(f"torch.export can't leave open the length {lengths}") from wrong


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from logging and printing the graphs that it can't export: the error has the reason.

    It also warns of its own code.
    """
    loggers = [one for name, one in logging.root.manager.loggerDict.items() if name.partition(".")[0] == "torch"]
    silenced = [one for one in loggers if isinstance(one, logging.Logger) and not one.disabled]
    for one in silenced:
        one.disabled = True
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one in silenced:
            one.disabled = False


def write(plan: Plan, calls: Calls, cases: Cases, path: Path) -> None:
    """Writes a `.pt2` file."""
    program = record(plan, calls, cases)
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file)


def reader(plan: Plan, path: Path) -> Callable[[Sequence[Array]], list[Array]]:
    """A function that computes the outputs of a file with torch.export."""
    with path.open("rb") as file, _quiet():
        module = torch.export.load(file).module()

    def run(arrays: Sequence[Array]) -> list[Array]:
        given = {s.name: as_tensor(a, s) for a, s in zip(arrays, plan.input_specs, strict=True)}
        try:
            with torch.no_grad(), _quiet():
                outputs = module(given)
        except AssertionError as guard:
            raise RefusedLengthsError(_plain(str(guard))) from guard
        return [to_numpy(outputs[spec.name]) for spec in plan.output_specs]

    return run


def try_out(plan: Plan, calls: Calls, cases: Cases, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of recorded calls."""
    program = record(plan, calls, cases)
    with _quiet():
        module = program.module()
    given = {s.name: as_tensor(a, s) for a, s in zip(arrays, plan.input_specs, strict=True)}
    with torch.no_grad():
        return [to_numpy(value) for value in module(given).values()]
