"""A plain grpcio server around an engine, as written in an afternoon: grpcio_server.py PORT MODEL ENGINE FILE.

Each of 16 threads computes its request by itself: nothing is batched. The contract is the Open Inference Protocol's:
`ModelInfer` with raw bytes, and what perf_analyzer asks besides.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from layerserve_server.protocols.inference import inference_pb2 as pb
from named_model import named_model

SERVICE = "inference.GRPCInferenceService"
OIP_TYPES = {"float32": "FP32", "int32": "INT32"}

port, name, *engine = sys.argv[1:]
model = named_model(name, *engine)
dtypes = {tensor.name: tensor.dtype for tensor in model.inputs}
statistics = pb.ModelStatistics(name=name, version="1")


def infer(request, context):
    """The rows of one request."""
    arrays = {
        tensor.name: np.frombuffer(raw, dtypes[tensor.name]).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    reply = pb.ModelInferResponse(model_name=name, model_version="1", id=request.id)
    for key, array in model.run(arrays).items():
        reply.outputs.add(name=key, datatype=OIP_TYPES[array.dtype.name], shape=array.shape)
        reply.raw_output_contents.append(array.tobytes())
    count(statistics)
    return reply


def count(statistics):
    """Counts a request where perf_analyzer looks."""
    statistics.inference_count += 1
    statistics.execution_count += 1
    statistics.inference_stats.success.count += 1
    statistics.inference_stats.queue.count += 1


def metadata(request, context):
    """The tensors of the model."""
    reply = pb.ModelMetadataResponse(name=name, versions=["1"])
    for tensors, field in ((model.inputs, reply.inputs), (model.outputs, reply.outputs)):
        for tensor in tensors:
            field.add(name=tensor.name, datatype=OIP_TYPES[tensor.dtype], shape=[-1, *tensor.shape])
    return reply


def config(request, context):
    """As Triton's: rows of any number, up to 64."""
    return pb.ModelConfigResponse(config=pb.ModelConfig(name=name, max_batch_size=64))


METHODS = {
    "ServerMetadata": lambda request, context: pb.ServerMetadataResponse(name="grpcio", extensions=["statistics"]),
    "ModelReady": lambda request, context: pb.ModelReadyResponse(ready=True),
    "ModelMetadata": metadata,
    "ModelConfig": config,
    "ModelStatistics": lambda request, context: pb.ModelStatisticsResponse(model_stats=[statistics]),
    "ModelInfer": infer,
}
handlers = {
    method: grpc.unary_unary_rpc_method_handler(
        function,
        getattr(pb, f"{method}Request").FromString,
        getattr(pb, f"{method}Response").SerializeToString,
    )
    for method, function in METHODS.items()
}
server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
server.wait_for_termination()
