"""Metrics of some calls, and their values."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import grpc
import numpy as np
from layerserve_server.observability.metrics import Metrics
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.transport.call import Ended
from prometheus_client.core import Metric

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT, INFER = "/layerserve.v1.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"


def counted_calls() -> Metrics:
    """After some calls and streamed requests of two versions, one that runs no model, and one without a model."""
    made = Metrics()
    made.calls_ended(
        [
            Ended(PREDICT, "m", "1", "OK", 0.25),
            Ended(INFER, "m", "1", "OK", 0.5),
            Ended(PREDICT, "m", "2", "OK", 0.5),
            Ended(PREDICT, "m", "1", "RESOURCE_EXHAUSTED", 1.0),
            Ended(PREDICT, "m", "1", "DEADLINE_EXCEEDED", 1.0),
            Ended(PREDICT, "m", "1", "CANCELLED", 1.0),
            Ended(PREDICT, "m", "1", "INTERNAL", 1.0),
            Ended(PREDICT, "m", "1", "INVALID_ARGUMENT", 1.0),
            Ended(PREDICT, "", "", "NOT_FOUND", 1.0),
            Ended("/layerserve.v1.ModelService/GetModel", "m", "1", "OK", 9.0),
        ]
    )
    made.streamed(
        [
            Ended(STREAM, "m", "1", "OK", 0.5),
            Ended(STREAM, "m", "2", "OK", 4.0),
            Ended(STREAM, "m", "1", "INTERNAL", 0.5),
        ]
    )
    batches = made.batches("m", 1)
    batches.requests_waited((0.125, 0.125))
    batches.batch_ran(6, 2, 0.25)
    batches.batch_ran(4, 1, 0.25)
    made.watch_queue("m", 1, lambda: 7, lambda: 3)
    return made


def values(families: Iterable[Metric]) -> dict[str, float]:
    """Value by name and labels, without our own metrics and without buckets."""
    return {
        " ".join([sample.name, *(f"{key}={value}" for key, value in sample.labels.items())]): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.startswith("layerserve_") and "le" not in sample.labels
    }


class StreamedRequests:
    """A stream of the model "double" after the replies to some requests, which is still open."""

    def __init__(self, channel: grpc.Channel, count: int) -> None:
        x = np.ones((3, 2), np.float32)
        message = pb.ModelInferRequest(
            model_name="double",
            inputs=[{"name": "x", "datatype": "FP32", "shape": x.shape}],
            raw_input_contents=[x.tobytes()],
        )
        self._over = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            yield from [message] * count
            self._over.wait(30)

        infer = channel.stream_stream(STREAM, pb.ModelInferRequest.SerializeToString, None)
        self._replies = infer(requests(), timeout=30)
        for _ in range(count):
            next(self._replies)

    def end(self) -> list[bytes]:
        """Ends the stream. Returns further replies."""
        self._over.set()
        return list(self._replies)
