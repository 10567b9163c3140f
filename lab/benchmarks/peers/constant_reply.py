"""A grpcio server that parses nothing and always says the same: what grpcio itself costs."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from layerserve.v1.prediction_pb2 import PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import encode
from numpy import zeros

REPLY = PredictResponse(
    model=ModelSpec(name="small", version=1), outputs=[encode(zeros((1, 10), "float32"), "dense_2")]
).SerializeToString()

method = grpc.unary_unary_rpc_method_handler(lambda request, context: REPLY)
server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("layerserve.v1.PredictionService", {"Predict": method}),)
)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
