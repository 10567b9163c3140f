"""Messages of other protocols live beside other packages' definitions of them."""

import subprocess
import sys

from google.protobuf import descriptor_pb2
from layerserve_server.protocols.inference import inference_pb2
from layerserve_server.protocols.pool import POOL

#: A program that defines messages of other shapes under the same names, before and after ours are imported.
OTHERS_TOO = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool

def other():
    for path, package, name in (
        ("grpc_service.proto", "inference", "ServerLiveResponse"),
        ("tensorflow/tensor.proto", "tensorflow", "TensorProto"),
        ("tensorflow_serving/apis/model.proto", "tensorflow.serving", "ModelSpec"),
    ):
        file = descriptor_pb2.FileDescriptorProto(name=path, package=package, syntax="proto3")
        file.message_type.add(name=name).field.add(name="alive", number=7, type=9, label=1)
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())

def ours():
    from layerserve_server.protocols.inference import inference_pb2
    reply = inference_pb2.ServerLiveResponse(live=True)
    assert reply.SerializeToString() == bytes([8, 1])
    assert inference_pb2.ServerLiveResponse.FromString(bytes([8, 1])).live
    from layerserve_server.protocols.tensorflow_serving import prediction_service_pb2
    request = prediction_service_pb2.PredictRequest(model_spec={"name": "m"}, inputs={"x": {"float_val": [1]}})
    assert prediction_service_pb2.PredictRequest.FromString(request.SerializeToString()) == request

for step in sys.argv[1:]:
    {"other": other, "ours": ours}[step]()
"""


def test_another_package_may_define_the_same_names_before_or_after():
    for order in (["other", "ours"], ["ours", "other", "ours"]):
        done = subprocess.run([sys.executable, "-c", OTHERS_TOO, *order], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_messages_are_in_the_private_pool():
    file = POOL.FindFileContainingSymbol("inference.ModelInferRequest")
    assert file is inference_pb2.DESCRIPTOR
    copied = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copied)
    assert copied.package == "inference"
