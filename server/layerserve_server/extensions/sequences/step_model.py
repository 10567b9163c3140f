"""What computes the steps of a version: the step model, whose inputs and outputs include the states, and its queue."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from layergraph.errors import DataError, unknown_name

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, UnknownOutputError, safe_text
from layerserve_server.extensions.sequences.model_settings import OwnSequences
from layerserve_server.inference.admission import Admission, Admitted
from layerserve_server.inference.batching import BatchObserver, BatchQueue
from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array, ModelRunner, TensorSpec
from layerserve_server.repository.version import DerivedModel, LoadedVersion
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.encoded_rows import EncodedRows
from layerserve_server.services.prediction.predict_protocol import Encoder, PredictionRequest, RequestedOutputs

if TYPE_CHECKING:
    from layergraph.stepping.stepper import Stepper

    from layerserve_server.inference.runner import ServedModel

#: Maximum number of cached endpoints. Clients choose the outputs, so there has to be a limit.
MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Inputs of a step, as a plan has them for `Admission`."""

    input_specs: Sequence[TensorSpec]
    batched: bool
    output_specs: Sequence[TensorSpec] = ()

    def run(self, inputs: Arrays) -> Arrays:
        raise NotImplementedError

    def tune(self, **options: Any) -> Any:
        raise NotImplementedError


class StepEndpoint:
    """How steps for the same outputs are read, and their replies written."""

    def __init__(self, first: Decoder, later: Decoder, encoder: Encoder) -> None:
        """`first` decodes the first step of a sequence, `later` the others."""
        self._first = first
        self._later = later
        self.encoder = encoder

    def read(self, request: PredictionRequest, *, first: bool, ignored: Sequence[str]) -> Admitted:
        """Returns the arrays of a step. Inputs that only the first step has are `ignored` later."""
        if first:
            admitted = self._first.read(request.tensors)
        else:
            admitted = self._later.read([tensor for tensor in request.tensors if tensor.name not in ignored])
        assert not isinstance(admitted, EncodedRows)  # without decoders of inputs
        return admitted


class StepModel:
    """The steps of a version. Thread-safe. It is a `VersionPart`."""

    def __init__(
        self,
        stepper: Stepper,
        settings: OwnSequences,
        observer: BatchObserver,
        *,
        threads: int | None = None,
        nice: int = 0,
        derived: str = "",
    ) -> None:
        """`observer` is told of batches, `threads` and `nice` are those of the version's queue.

        `derived` is the function that makes the step model in the process that chooses engines; empty to choose none.
        """
        self.stepper = stepper
        model = cast("ServedModel", stepper.model)
        self.derived = DerivedModel(model, derived) if derived else None
        self.settings = settings
        self._observer = observer
        self._nice = nice
        self._runner = ModelRunner(model, threads)
        plan = model.plan()
        self.joinable = plan.batched
        #: Outputs of the step model: those of the model, and the states after the step.
        self.computed = tuple(spec.name for spec in plan.output_specs)
        self._names = tuple(spec.name for spec in stepper.input_specs)
        self._state_names = [(spec.name, spec.next_name) for spec in stepper.state_specs]
        self._row_bytes = sum(prod(spec.shape) * _size(spec.dtype) for spec in stepper.state_specs)
        self._endpoints: dict[RequestedOutputs, StepEndpoint] = {}
        self._queue: BatchQueue | None = None
        self._closed = False
        self._lock = threading.Lock()

    def endpoint(self, version: LoadedVersion, requested: RequestedOutputs) -> StepEndpoint:
        """Returns the endpoint for these outputs. Raises as `endpoint_of` does, and for tensors inside of the graph."""
        found = self._endpoints.get(requested)
        if found is None:
            found = self._make_endpoint(version, requested)
            if len(self._endpoints) >= MAX_KEPT:
                self._endpoints = {}
            self._endpoints[requested] = found
        return found

    def _make_endpoint(self, version: LoadedVersion, requested: RequestedOutputs) -> StepEndpoint:
        protocol, stepper = requested.protocol, self.stepper
        known = [spec.name for spec in stepper.output_specs]
        names = protocol.output_names(version, requested) or tuple(known)
        for name, count in Counter(names).items():
            if name not in known:
                raise UnknownOutputError(
                    f"{unknown_name('output', name, known)}; steps compute the model's outputs only"
                )
            if count > 1:
                raise InvalidRequestError(f"output '{safe_text(name, 80)}': given {count} times, expected once")
        further = protocol.input_names(version, requested)
        begun = [spec for spec in version.model.input_specs if spec.name in stepper.first_inputs]

        def decoder(specs: Sequence[TensorSpec]) -> Decoder:
            own = {spec.name for spec in specs}
            admission = Admission(StepInputs(specs, self.joinable), specs, names)
            return Decoder(admission, {other: name for other, name in further.items() if name in own})

        return StepEndpoint(
            decoder((*stepper.input_specs, *begun)),
            decoder(stepper.input_specs),
            protocol.encoder(version, requested, names),
        )

    def read(self, endpoint: StepEndpoint, request: PredictionRequest, *, first: bool) -> Admitted:
        """Returns the arrays of a step. Raises as `Decoder.read` does, and if there are no rows or timesteps."""
        admitted = endpoint.read(request, first=first, ignored=self.stepper.first_inputs)
        if not admitted.rows:
            raise InvalidTensorError("got no rows, expected at least one in each step")
        for name in self.stepper.timed_inputs:
            if admitted.arrays[name].ndim > 1 and not admitted.arrays[name].shape[1]:
                raise InvalidTensorError(f"input '{name}': got no timestep, expected at least one")
        return admitted

    def size(self, rows: int) -> int:
        """Returns the size of the states of a sequence with this number of rows, in bytes."""
        return rows * self._row_bytes

    @property
    def computes_first_states(self) -> bool:
        """Whether `first_states` runs a part of the model."""
        return bool(self.stepper.first_inputs)

    def first_states(self, admitted: Admitted) -> Arrays:
        """Returns the states before the first step. Raises InvalidTensorError."""
        try:
            states = self.stepper.initial_states(admitted.rows, admitted.arrays)
        except DataError as error:
            raise InvalidTensorError(str(error)) from error
        return {name: _kept(states[name]) for name, _ in self._state_names}

    def inputs(self, admitted: Admitted, states: Arrays) -> Arrays:
        """Returns the inputs of the step model."""
        return {**{name: admitted.arrays[name] for name in self._names}, **states}

    def group(self, admitted: Admitted) -> object:
        """Returns what is equal for steps that can be batched."""
        return tuple(admitted.arrays[name].shape[1:] for name in self._names)

    def next_states(self, results: Arrays) -> Arrays:
        """Returns the states after a step."""
        return {name: _kept(results[after]) for name, after in self._state_names}

    def queue(self, version: LoadedVersion) -> BatchQueue:
        """Returns the queue of steps, which has the limits of the version's."""
        limits = version.queue.max_batch_rows, version.queue.max_queue_rows
        queue = self._queue
        if queue is None:
            with self._lock:
                queue = self._queue
                if queue is None:
                    queue = self._queue = BatchQueue(
                        f"steps of model '{version.name}' version {version.version}",
                        self._runner,
                        max_batch_rows=limits[0],
                        max_queue_rows=limits[1],
                        observer=self._observer,
                        nice=self._nice,
                    )
        if limits != (queue.max_batch_rows, queue.max_queue_rows):
            queue.set_limits(*limits)
        return queue

    def close(self) -> None:
        """See `VersionPart`."""
        with self._lock:
            queue = self._queue
        if queue is not None:
            queue.close()


class NoSteps:
    """A version whose file has stateful layers, but whose steps can't be computed. It is a `VersionPart`."""

    derived = None

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def close(self) -> None:
        """See `VersionPart`."""


def _size(dtype: str) -> int:
    return np.dtype("float32" if dtype == "bfloat16" else dtype).itemsize


def _kept(array: Array) -> Array:
    """Returns a copy of its own, which isn't written to: results are views of those of a batch."""
    made: Array = np.array(array)
    made.flags.writeable = False
    return made
