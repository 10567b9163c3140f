"""The Open Inference Protocol through a real port, as Triton's clients call it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from layerserve_server.protocols.inference import inference_pb2 as pb

X = np.arange(6, dtype=np.float32).reshape(3, 2)
TRANSPORTS = [
    "grpcio",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native isn't installed"),
    ),
]


class Stub:
    """Calls methods by name."""

    def __init__(self, channel):
        self._channel = channel

    def __call__(self, method, request, reply=None):
        reply = reply or getattr(pb, type(request).__name__.replace("Request", "Response"))
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return call(request, timeout=60)

    def stream(self, requests, **options):
        return self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )(requests, timeout=60, **options)


def infer(x=X, name="double", **fields):
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
    return pb.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[x.tobytes()], **fields)


def output(reply, index=0):
    shape = reply.outputs[index].shape
    return np.frombuffer(reply.raw_output_contents[index], np.float32).reshape(shape)
