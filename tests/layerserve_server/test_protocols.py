"""Messages of other protocols live beside other packages' definitions of them."""

from defined_elsewhere import assert_both_work
from google.protobuf import descriptor_pb2
from layerserve_server.protocols.inference import inference_pb2
from layerserve_server.protocols.pool import POOL

OURS = """
from layerserve_server.protocols.inference import inference_pb2
reply = inference_pb2.ServerLiveResponse(live=True)
assert reply.SerializeToString() == bytes([8, 1])
assert inference_pb2.ServerLiveResponse.FromString(bytes([8, 1])).live
"""


def test_another_package_may_define_the_same_names_before_or_after():
    assert_both_work([("grpc_service.proto", "inference", "ServerLiveResponse")], OURS)


def test_the_messages_are_in_the_private_pool():
    file = POOL.FindFileContainingSymbol("inference.ModelInferRequest")
    assert file is inference_pb2.DESCRIPTOR
    copied = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copied)
    assert copied.package == "inference"
