"""Every method of every service with every kind of token: what a server has to answer."""

from __future__ import annotations

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from layerserve_server.access.rights import with_alternatives
from layerserve_server.protocols.pool import POOL
from layerserve_server.wiring import RIGHTS as NEEDED
from stubs import described_files
from tokens import ENTRIES, RIGHTS, bearer

KINDS = [None, "wrong", *ENTRIES]
#: What else methods need, on the model that they name.
ON_MODEL = {"/layerserve.v1.ScoringService/Score": "predict"}
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


described_files()  # which are found below by name

#: Metadata with which errors of ModelStreamInfer are statuses.
ENDS = ("triton_grpc_error", "true")


def described(method: str) -> MethodDescriptor:
    """Describes a method of any of the protocols."""
    service, _, name = method.lstrip("/").partition("/")
    pool = Default() if service.startswith("layerserve.") else POOL
    return pool.FindServiceByName(service).methods_by_name[name]


def request_for(method: str, model: str) -> bytes:
    """A request of a method that names the model, if its messages can."""
    service = method.split("/")[1]
    if service.startswith("grpc.reflection."):
        return reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    if service == "grpc.health.v1.Health":
        return health_pb2.HealthCheckRequest().SerializeToString()
    kind = described(method).input_type
    message = message_factory.GetMessageClass(kind)()
    fields = kind.fields_by_name
    if method.endswith("/UploadModel"):
        message.spec.name = model
    elif "spec" in fields:
        spec = message.spec
        (spec if "model" in spec.DESCRIPTOR.fields_by_name else spec.train).model.name = model
    elif "train" in fields:
        message.train.model.name = model
    elif "request" in fields:
        message.request.model.name = model
    elif "model" in fields:
        message.model.name = model
    elif "model_spec" in fields:
        message.model_spec.name = model
    elif "model_name" in fields:
        message.model_name = model
    elif "run_id" in fields:
        message.run_id = "20260101-0000-00000000"
    elif "name" in fields:
        message.name = model
    return message.SerializeToString()


#: Methods beside lists that leave out what the caller may not read, and those whose requests name something else.
NOT_OF_A_MODEL = (
    *("GetModelStatistics", "TraceSetting"),
    *("SharedMemoryStatus", "SharedMemoryRegister", "SharedMemoryUnregister"),
)


def names_a_model(method: str) -> bool:
    if method.startswith("/grpc.") or method.endswith(NOT_OF_A_MODEL) or "/List" in method:
        return False
    fields = described(method).input_type.fields_by_name
    names = {"spec", "train", "request", "model", "model_spec", "model_name", "name"}
    return "run_id" not in fields and not names.isdisjoint(fields)


def outcome(
    channel: grpc.Channel, method: str, token: str | None, model: str = "double"
) -> tuple[grpc.StatusCode, str]:
    """The status of a call and its text; on the wire a unary call is a stream of one message."""
    call = channel.stream_stream(method)(
        iter([request_for(method, model)]), metadata=(*bearer(token), ENDS), timeout=30
    )
    try:
        message = next(call, None)
        if message is not None and method.endswith("PredictStream"):
            service = Default().FindServiceByName("layerserve.v1.PredictionService")
            reply = message_factory.GetMessageClass(service.methods_by_name["PredictStream"].output_type)
            error = reply.FromString(message).error
            return next(code for code in grpc.StatusCode if code.value[0] == error.code), error.message
        if message is not None:
            return grpc.StatusCode.OK, ""
        return call.code(), call.details()
    except grpc.RpcError as error:
        return error.code(), error.details()
    finally:
        call.cancel()


def check(channel: grpc.Channel, method: str) -> None:
    """Calls a method of a server that has the tokens of `tokens.ENTRIES` and a model "double", with each of them."""
    right = NEEDED[method]
    for token in KINDS:
        code, text = outcome(channel, method, token)
        about = f"{method} with token {token}: {code} {text}"
        if right == "open":
            assert code is grpc.StatusCode.OK, about
        elif token in (None, "wrong", "expired"):
            assert code is grpc.StatusCode.UNAUTHENTICATED, about
            assert "double" not in text, about
        elif token in RIGHTS and right not in with_alternatives([token]):
            assert code is grpc.StatusCode.PERMISSION_DENIED, about
            assert text == f"{method.rpartition('/')[2]}: caller '{token}' has no right '{right}'", about
        elif token == "other-models" and names_a_model(method):
            # Some methods are there only to refer to others.
            assert code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED), about
            # The same text for a model that doesn't exist.
            assert outcome(channel, method, token, "absent") == (code, text.replace("double", "absent")), about
        elif token in RIGHTS and token != ON_MODEL.get(method, token):
            assert code is grpc.StatusCode.PERMISSION_DENIED, about
            assert text == f"model 'double': caller '{token}' has no right '{ON_MODEL[method]}' on it", about
        else:
            assert code not in REFUSALS, about
