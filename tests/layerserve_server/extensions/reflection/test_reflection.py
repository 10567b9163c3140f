"""Reflection through a real port, on every transport."""

from __future__ import annotations

import grpc
import pytest
from echo_servers import SERVERS, server_of
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from layerserve_server.extensions.reflection.service import SERVICES, Reflection
from some_limits import some_limits


@pytest.fixture(params=SERVERS)
def reflecting(request):
    """A channel to a server that has no other service."""
    server = server_of(request.param, Reflection(lambda: SERVICES).routes(), some_limits())
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    server.stop(0)


def services(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
    return {service.name for service in response.list_services_response.service}


def test_the_services_are_listed_unless_it_is_off(start, connect, put):
    put("double")
    listed = services(connect(start()))
    assert {"layerserve.v1.PredictionService", "grpc.health.v1.Health", *SERVICES} <= listed
    with pytest.raises(grpc.RpcError) as caught:
        services(connect(start(reflection=False)))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("inference.GRPCInferenceService", {"inference"}),
        ("layerserve.v1.PredictionService", {"layerserve.v1", "google.protobuf"}),
        ("no.such.Service", set()),
    ],
)
def test_services_of_every_protocol_are_described(reflecting, symbol, expected):
    stub = reflection_pb2_grpc.ServerReflectionStub(reflecting)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
    files = response.file_descriptor_response.file_descriptor_proto
    assert {descriptor_pb2.FileDescriptorProto.FromString(file).package for file in files} == expected
    by_name = [
        reflection_pb2.ServerReflectionRequest(
            file_by_filename=descriptor_pb2.FileDescriptorProto.FromString(file).name
        )
        for file in files
    ]
    for answer in stub.ServerReflectionInfo(iter(by_name), timeout=30):
        assert answer.file_descriptor_response.file_descriptor_proto


def test_messages_have_no_extensions(reflecting):
    stub = reflection_pb2_grpc.ServerReflectionStub(reflecting)
    for name in ("inference.ModelInferRequest", "layerserve.v1.Tensor"):
        request = reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type=name)
        (response,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
        assert response.all_extension_numbers_response.base_type_name == name
        assert not response.all_extension_numbers_response.extension_number


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_generations_of_tools_are_answered(reflecting, version):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    ask = reflecting.stream_stream(
        method,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")
    nothing = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
    found, missing = ask(iter([symbol, nothing]), timeout=30)
    assert found.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
