"""Handler of layerserve.v1.ExplanationService: inputs as for Predict, explained in a child process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
from layerserve.v1 import explanations_pb2 as pb
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors

from layerserve_server.errors import BusyError, InvalidRequestError, InvalidTensorError, TooLargeError, safe_text
from layerserve_server.extensions.explanations.job import Explanation, Question, explained
from layerserve_server.inference.admission import Admitted
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import chosen_by, model_spec, parse
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.encoded_rows import EncodedRows
from layerserve_server.services.prediction.endpoint import Endpoint, endpoint_of
from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1, V1Tensor
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.waiting import with_version
from layerserve_server.transport.call import Call, Routes
from layerserve_server.transport.client_address import host_of

SERVICE = "/layerserve.v1.ExplanationService/"
#: Maximum number of concurrent explanations: each occupies a thread of the calls, a core, and the memory of a model.
#: And of one caller, so that no caller keeps others from theirs.
MAX_EXPLANATIONS, MAX_CALLER_EXPLANATIONS = 2, 1
#: Time after which a refused client may retry, in seconds.
RETRY_SECONDS = 2.0
#: Number of steps if the request has none, the most that it may have, and the most rows times steps.
DEFAULT_STEPS, MAX_STEPS, MAX_PASSES = 50, 10_000, 1_000_000
#: Maximum number of tensors to attribute to.
MAX_TENSORS = 64


class ExplanationService:
    """The handler of Explain."""

    def __init__(self, repository: Repository, predictor: Predictor, jobs: Jobs, seconds: float) -> None:
        """`seconds` limits the processor time of an explanation."""
        self._repository = repository
        self._predictor = predictor
        self._jobs = jobs
        self._seconds = seconds
        self._protocol = LayerserveV1()
        #: Whose outputs are being explained.
        self._callers: list[str] = []
        self._lock = threading.Lock()

    def routes(self) -> Routes:
        """Returns the handler."""
        # The native transport tells the client's address of prompt methods only: the canary goes by it.
        method = SERVICE + "Explain"
        return Routes(unary={method: lambda call: call.in_pool(lambda: self.explain(call))}, prompt={method})

    def explain(self, call: Call) -> None:
        """Handles Explain. Raises as `chosen_by`, `with_version`, `endpoint_of`, `Decoder.read` and `explained` do."""
        message = parse(pb.ExplainRequest, call.request)
        named = chosen_by(call.caller, "predict", message.model)
        if message.steps > MAX_STEPS:
            raise InvalidRequestError(f"steps: got {message.steps}, expected at most {MAX_STEPS}")
        if len(message.to) > MAX_TENSORS:
            raise InvalidRequestError(f"to: got {len(message.to)} tensors, expected at most {MAX_TENSORS}")
        chosen = self._predictor.chosen(call, named)
        with_version(self._repository, call, chosen, lambda version: self._explain(call, message, version), named=named)

    def _explain(self, call: Call, message: pb.ExplainRequest, version: LoadedVersion) -> None:
        """Answers the call. Raises ForbiddenError, QuotaError, BusyError at MAX_EXPLANATIONS, and as `explain` does."""
        call.set_metric_labels(version.name, version.version)
        own_inputs = {spec.name for spec in version.model.input_specs}
        own_outputs = [spec.name for spec in version.model.output_specs]
        output = message.output or own_outputs[0]
        if not message.output and len(own_outputs) > 1:
            raise InvalidRequestError(f"output: got none, expected one of {', '.join(own_outputs)}")
        inner = [name for name in message.to if name not in own_inputs]
        if inner or output not in own_outputs:
            # What they are can be computed from outputs, but their gradients are products of the weights.
            call.caller.check_model("read", version.name)
        endpoint = endpoint_of(version, RequestedOutputs(self._protocol, (output, *inner)))
        if len(set(message.to)) < len(message.to):
            raise InvalidRequestError(f"to: got {safe_text(str(list(message.to)))}, expected each tensor once")
        steps = message.steps or DEFAULT_STEPS
        with self._slot(call.caller.owner or host_of(str(call.client()), call.metadata)):
            admitted = _decoded(call, endpoint.decoder, message.inputs)
            _check_size(call, admitted.rows, steps)
            question = Question(
                found=version.found,
                inputs=admitted.arrays,
                baselines=_baselines(call, endpoint, message.baselines, admitted),
                output=output,
                to=message.to,
                target=message.target,
                axes=_axes(version.runner.plan((output, *inner)).output_specs[0], message.target, admitted.rows),
                steps=steps,
            )
            limits = self._jobs.limits(version.parameter_count, self._seconds)
            found = explained(self._jobs, question, limits, lambda: call.answered, call.hold)
        call.answer(_reply(version, found).SerializeToString())

    @contextmanager
    def _slot(self, caller: str) -> Iterator[None]:
        """Raises BusyError if as many outputs as possible are being explained, for all or for a caller."""
        with self._lock:
            if len(self._callers) >= MAX_EXPLANATIONS or self._callers.count(caller) >= MAX_CALLER_EXPLANATIONS:
                raise BusyError("other outputs are being explained", retry_after=RETRY_SECONDS)
            self._callers.append(caller)
        try:
            yield
        finally:
            with self._lock:
                self._callers.remove(caller)


def _decoded(call: Call, decoder: Decoder, given: Sequence[tensor_pb2.Tensor]) -> Admitted:
    """Returns the arrays of tensors. Waits for those that other processes decode."""
    read = decoder.read([V1Tensor(tensor) for tensor in given])
    if not isinstance(read, EncodedRows):
        return read
    decoded: Future[Admitted | Exception] = Future()
    read.decode(call, decoded.set_result)
    outcome = decoded.result()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _baselines(
    call: Call, endpoint: Endpoint, given: Sequence[tensor_pb2.Tensor], inputs: Admitted
) -> dict[str, Array]:
    """Returns the arrays of the given baselines. They are decoded as inputs are, with zeros for the other inputs."""
    names = [tensor.name or next(iter(inputs.arrays)) for tensor in given]
    rows = given[0].shape[0] if given and given[0].shape else 1
    if rows not in (1, inputs.rows):
        raise InvalidTensorError(f"baseline '{safe_text(names[0], 80)}': got {rows} rows, expected 1 or {inputs.rows}")
    others = [
        tensors.encode(np.full((rows, *array.shape[1:]), b"" if array.dtype == object else 0, array.dtype), name)
        for name, array in inputs.arrays.items()
        if name not in names
    ]
    admitted = _decoded(call, endpoint.decoder, [*given, *others]) if given else inputs
    return {name: admitted.arrays[name] for name in names if name in admitted.arrays}


def _check_size(call: Call, rows: int, steps: int) -> None:
    """Raises TooLargeError for too much work, and QuotaError: each step counts as the rows do."""
    if rows * steps > MAX_PASSES:
        raise TooLargeError(
            f"got {rows} rows and {steps} steps, expected at most {MAX_PASSES // steps} rows with so many steps"
        )
    quota = call.caller.quota
    if quota is not None:
        quota.take_rows(rows * steps)


def _axes(spec: TensorSpec, target: Sequence[int], rows: int) -> int:
    """Returns the number of indices of an element. Raises InvalidRequestError if `target` has another number."""
    lengths = spec.shape[1:]
    axes = len(lengths)
    if not target and any(length is not None and length > 1 for length in lengths):
        raise InvalidRequestError(
            f"target: got none, expected the element of output '{spec.name}' to explain: an index for each axis of "
            f"{lengths}"
        )
    if target and len(target) not in (axes, rows * axes):
        raise InvalidRequestError(
            f"target: got {len(target)} indices, expected {axes} for output '{spec.name}' of shape "
            f"{tuple(spec.shape)}, or {rows * axes} for {rows} rows"
        )
    return axes


def _reply(version: LoadedVersion, found: Explanation) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        model=model_spec(version.name, version.version),
        attributions=[tensors.encode(array, name) for name, array in found.attributions.items()],
        outputs=tensors.encode(found.outputs, "outputs"),
        baseline_outputs=tensors.encode(found.baseline_outputs, "baseline_outputs"),
        convergence_delta=tensors.encode(found.delta, "convergence_delta"),
    )
