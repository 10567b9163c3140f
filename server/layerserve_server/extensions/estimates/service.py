"""Handler of EstimateRun of layerserve.v1.TrainingService: estimates of runs before their data is sent."""

from __future__ import annotations

import threading

from layerserve.v1 import training_pb2 as pb

from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import BusyError, InvalidRequestError
from layerserve_server.extensions.estimates.costs import Seconds
from layerserve_server.extensions.estimates.estimator import Estimate, Estimator
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_arrays import with_datasets
from layerserve_server.services.messages import lease, model_spec, parse
from layerserve_server.services.run_requests import RunDefaults, evaluation_request, training_request
from layerserve_server.services.training import SERVICE
from layerserve_server.training.request import RunRequest
from layerserve_server.transport.call import Call, Routes

#: Maximum number of concurrent estimates: each occupies a thread of the calls for some seconds.
MAX_ESTIMATES = 2
#: Time after which a refused client may retry, in seconds.
RETRY_SECONDS = 3.0


class RunEstimates:
    """The handler of EstimateRun."""

    def __init__(
        self, repository: Repository, estimator: Estimator, defaults: RunDefaults, datasets: DatasetStore | None = None
    ) -> None:
        """`datasets` is None if the server keeps none."""
        self._datasets = datasets
        self._repository = repository
        self._estimator = estimator
        self._defaults = defaults
        self._slots = threading.BoundedSemaphore(MAX_ESTIMATES)

    def routes(self) -> Routes:
        """Returns the handler."""
        return Routes(unary={SERVICE + "EstimateRun": self.estimate_run})

    def estimate_run(self, call: Call) -> None:
        """Handles EstimateRun. Raises as `messages.lease` and `Estimator` do, and BusyError at MAX_ESTIMATES others."""
        message = parse(pb.EstimateRunRequest, call.request)
        kind = message.WhichOneof("run")
        if kind is None:
            raise InvalidRequestError("run: got neither train nor evaluate, expected one of the two")
        spec = message.train if kind == "train" else message.evaluate
        with lease(self._repository, call.caller, "train", spec.model) as base:
            call.set_metric_labels(base.name, base.version)
            if not self._slots.acquire(blocking=False):
                raise BusyError("other runs are being estimated", retry_after=RETRY_SECONDS)
            try:
                request = with_datasets(self._read(message, base.name, base.version), self._datasets, call.caller)
                estimate = self._estimator(request, base, lambda: call.answered)
            except InvalidRequestError as unreadable:
                reply = pb.EstimateRunResponse(base=model_spec(base.name, base.version), problems=[str(unreadable)])
            else:
                reply = _reply(estimate)
            finally:
                self._slots.release()
        call.answer(reply.SerializeToString())

    def _read(self, message: pb.EstimateRunRequest, model: str, version: int) -> RunRequest:
        """Returns the request of the run. Raises InvalidRequestError if a field can't be read, as Train does."""
        if message.WhichOneof("run") == "train":
            return training_request(message.train, model, version, self._defaults)
        return evaluation_request(message.evaluate, model, version, self._defaults)


def _reply(estimate: Estimate) -> pb.EstimateRunResponse:
    request = estimate.request
    reply = pb.EstimateRunResponse(
        base=model_spec(request.model, request.version),
        problems=estimate.problems,
        ahead=estimate.ahead,
        wait_seconds=estimate.wait,
    )
    if (steps := estimate.steps) is not None:
        reply.rows, reply.steps_per_epoch, reply.steps = steps.rows, steps.per_epoch, steps.total
        reply.validation_steps = steps.validation
        reply.data_bytes = request.sent_bytes
    if (costs := estimate.costs) is not None:
        reply.trainable_parameters, reply.non_trainable_parameters = costs.trainable, costs.non_trainable
        reply.memory_bytes, reply.disk_bytes = costs.memory, costs.disk
        reply.seconds.CopyFrom(_seconds(costs.seconds))
    if (publication := estimate.publication) is not None:
        reply.publication.CopyFrom(
            pb.EstimatedPublication(
                version=model_spec(request.model, publication.version),
                label=request.publish_label or "",
                choice=pb.PUBLISH_CHOICE_BEST if request.publish == "best" else pb.PUBLISH_CHOICE_LAST,
                if_improved=request.publish_if_improved or "",
                bytes=publication.bytes,
            )
        )
    return reply


def _seconds(seconds: Seconds) -> pb.EstimatedSeconds:
    return pb.EstimatedSeconds(
        total=seconds.total,
        start=seconds.start,
        steps=seconds.steps,
        validation=seconds.validation,
        checkpoints=seconds.checkpoints,
        result=seconds.result,
        step=seconds.step,
    )
