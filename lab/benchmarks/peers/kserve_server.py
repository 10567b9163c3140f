"""KServe's Python server with a model in torch, over the Open Inference Protocol's gRPC.

It answers each request by itself: KServe batches in a process of its own, in front of the server, and for HTTP only.
"""

import sys

from kserve import InferOutput, InferResponse, Model, ModelServer
from torch_models import in_torch

OIP_TYPES = {"float32": "FP32"}


class Served(Model):
    """One of the networks."""

    def __init__(self, model):
        super().__init__(model)
        self.network = in_torch(model).run
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """One request's rows."""
        results = self.network({tensor.name: tensor.as_numpy().copy() for tensor in payload.inputs})
        outputs = []
        for name, array in results.items():
            outputs.append(InferOutput(name, list(array.shape), OIP_TYPES[array.dtype.name]))
            outputs[-1].set_data_from_numpy(array, binary_data=True)
        return InferResponse(payload.id, self.name, outputs)


port = int(sys.argv[1])
ModelServer(http_port=port + 1, grpc_port=port, workers=1, access_log_format=None).start([Served(sys.argv[2])])
