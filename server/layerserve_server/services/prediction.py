"""layerserve.v1.PredictionService: arrays in, arrays out."""

from __future__ import annotations

from layerserve import tensors
from layerserve.v1 import prediction_pb2

from layerserve_server.admission import admit
from layerserve_server.batching import Arrays, Pending
from layerserve_server.metrics import Metrics
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import decode, lease, model_spec, parse
from layerserve_server.transport.call import Call, Routes

SERVICE = "/layerserve.v1.PredictionService/"


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    def routes(self) -> Routes:
        """Its methods."""
        return Routes(unary={SERVICE + "Predict": self.predict})

    def predict(self, call: Call) -> None:
        """Puts the request's rows into the version's lane. The reply comes from there."""
        request = parse(prediction_pb2.PredictRequest, call.request)
        held = lease(self._repository, request.model)
        version = held.version
        try:
            call.about(version.name, version.version)
            plan = version.execution.plan(request.outputs)
            given = [(tensor.name, decode(tensor)) for tensor in request.inputs]
            admitted = admit(plan, version.model.input_specs, given)
            names = tuple(request.outputs) or tuple(spec.name for spec in version.model.output_specs)

            def answer(pending: Pending) -> None:
                held.end()
                self._metrics.request_computed(version.name, version.version, pending)
                if pending.results is None:
                    call.fail(pending.error or RuntimeError("a request ended without results or error"))
                else:
                    results = pending.results
                    call.reply(lambda: _encode(request, version, names, results))

            pending = Pending(
                outputs=tuple(dict.fromkeys(names)),
                arrays=admitted.arrays,
                rows=admitted.rows,
                joinable=plan.batched,
                done=answer,
                deadline=call.deadline,
            )
            version.lane.submit(pending)
        except BaseException:
            held.end()
            raise
        call.on_gone(pending.cancel)


def _encode(
    request: prediction_pb2.PredictRequest, version: LoadedVersion, names: tuple[str, ...], results: Arrays
) -> bytes:
    return prediction_pb2.PredictResponse(
        model=model_spec(version.name, version.version),
        outputs=[tensors.encode(results[name], name) for name in names],
        id=request.id,
    ).SerializeToString()
