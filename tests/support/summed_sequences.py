"""A model that adds up its inputs over time, and a caller of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
from layergraph.errors import DataError, NotSteppableError
from layerserve.v1 import prediction_pb2 as pb
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import decode, encode

METHOD = "/layerserve.v1.PredictionService/Predict"


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int | None, ...]
    dtype: str


X, Y, TOTAL = Spec("x", (None, None), "float32"), Spec("y", (None, None), "float32"), Spec("total", (None,), "float32")


@dataclass
class SumModel:
    """`y` is the sum of `x` over time, plus `offset`. Refuses negative numbers."""

    offset: float = 0.0
    stateful: bool = False
    #: Why it can't be stepped.
    refused: str = ""
    input_specs: Sequence[Spec] = (X,)
    output_specs: Sequence[Spec] = (Y,)
    compiled: bool = False
    keras_version: str | None = "3.15.1"
    engines: Sequence[Any] = ()
    signatures: Mapping[str, Any] = field(default_factory=dict)
    #: Set while steps may be computed.
    gate: threading.Event = field(default_factory=threading.Event)
    #: Rows of each batch of steps that began.
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        self.layers = [SimpleNamespace(walk_layers=lambda: [SimpleNamespace(stateful=self.stateful)])]

    def plan(self, outputs: Sequence[str] | None = None) -> SumPlan:
        return SumPlan(self, [X], [Y], self._whole)

    def _whole(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": np.cumsum(arrays["x"], 1) + np.float32(self.offset)}

    def stepper(self) -> SumStepper:
        if self.refused:
            raise NotSteppableError(self.refused, "back", "Bidirectional")
        return SumStepper(self)

    def count_params(self) -> int:
        return 0


class SumStepper:
    """A stepper of it (see `layergraph.stepping.stepper.Stepper`)."""

    engines = ()
    input_specs, output_specs, first_inputs, timed_inputs = (X,), (Y,), (), ("x",)
    state_specs = (SimpleNamespace(name="total", shape=(), dtype="float32", next_name="total_next"),)

    def __init__(self, whole: SumModel) -> None:
        self._whole = whole
        self.model = self

    def plan(self, outputs: Sequence[str] | None = None) -> SumPlan:
        after = Spec("total_next", (None,), "float32")
        return SumPlan(self._whole, [X, TOTAL], [Y, after], self._step)

    def initial_states(self, rows: int, inputs: Any = None) -> dict[str, np.ndarray]:
        return {"total": np.zeros(rows, "float32")}

    def _step(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        whole = self._whole
        whole.batches.append(len(arrays["x"]))
        assert whole.gate.wait(30)
        if (arrays["x"] < 0).any():
            raise DataError(f"input 'x': got {arrays['x'].min():g}, expected 0 or more")
        sums = np.cumsum(arrays["x"], 1) + arrays["total"][:, None]
        return {"y": sums + np.float32(whole.offset), "total_next": sums[:, -1]}


@dataclass
class SumPlan:
    model: SumModel
    input_specs: Sequence[Spec]
    output_specs: Sequence[Spec]
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    batched: bool = True


class Caller:
    """Sends steps by unary calls."""

    def __init__(self, channel: grpc.Channel, token: str | None = None) -> None:
        self._call = channel.unary_unary(METHOD, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def begin(self, id: str, *values: float, start: bool = False, end: bool = False, **model: Any) -> Any:
        """Begins a step of one row with these values, one for each timestep."""
        return self._call.future(request(id, *values, start=start, end=end, **model), metadata=self._metadata)

    def step(self, id: str, *values: float, **options: Any) -> list[float]:
        """Returns the outputs of a step."""
        return outputs(self.begin(id, *values, **options).result(30))

    def refused(self, id: str, *values: float, **options: Any) -> tuple[grpc.StatusCode, str]:
        """Returns the status and the text of a step that is refused."""
        error = self.begin(id, *values, **options).exception(30)
        return error.code(), error.details()


def request(id: str, *values: float, start: bool = False, end: bool = False, **model: Any) -> pb.PredictRequest:
    """A step of one row."""
    x = encode(np.array([values], "float32"), "x", "float32")
    sequence = pb.Sequence(id=id, start=start, end=end)
    return pb.PredictRequest(model=ModelSpec(name="sum", **model), inputs=[x], sequence=sequence, id=f"of {id}")


def outputs(reply: pb.PredictResponse) -> list[float]:
    return [float(value) for value in decode(reply.outputs[0])[0]]
