"""Requests with tensors in shared memory, over gRPC, its streams and HTTP; and what clients may do to the memory."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from echo_servers import needs_native
from http_calls import Http
from layerserve_server.extensions.installed import Settings
from layerserve_server.extensions.triton.extension import TRITON
from layerserve_server.extensions.triton.shared_memory.connection_user import connection_user
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.open_inference.infer_protocol import InferProtocol
from layerserve_server.services.prediction.request_taker import ForwardedRequests
from shared_memory_requests import SERVICE, X, asked, open_files, placed
from tokens import entry

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="regions are files of /dev/shm")
INFER = "/v2/models/double/infer"


@pytest.fixture
def app(put, start):
    put("double")
    return start(http_port=0, system_shared_memory="write")


@pytest.fixture
def call(app, caller):
    return caller(app)


@pytest.fixture
def http(app):
    connection = Http(app.http_port)
    yield connection
    connection.close()


def result(path: Path, offset: int = 0) -> np.ndarray:
    return np.frombuffer(path.read_bytes()[offset : offset + X.nbytes], np.float32).reshape(X.shape)


@pytest.mark.parametrize("transport", ["grpcio", pytest.param("native", marks=needs_native)])
def test_inputs_are_read_and_outputs_written_at_their_offsets(put, start, caller, shared, transport):
    put("double")
    call = caller(start(system_shared_memory="write", transport=transport))
    path = shared(bytes(4096) + bytes(8) + X.tobytes() + bytes(64))
    call.register("r", path, size=88, offset=4096)
    for _ in range(2):  # nothing is remembered of the message
        reply = call.infer(asked(placed("r", X.nbytes, 8), placed("r", 64, 24)))
        assert (result(path, 4096 + 24) == 2 * X).all()
        (output,) = reply.outputs
        assert (reply.id, list(reply.raw_output_contents), list(output.shape)) == ("7", [b""], [2, 2])
        assert output.parameters["shared_memory_region"].string_param == "r"
        assert output.parameters["shared_memory_offset"].int64_param == 24
        assert output.parameters["shared_memory_byte_size"].int64_param == X.nbytes
        path.write_bytes(path.read_bytes()[:4120] + bytes(64))
    assert np.frombuffer(call.infer(asked(placed("r", X.nbytes, 8))).raw_output_contents[0], np.float32)[3] == 6
    call.infer(asked(None, placed("r", 64, 24)))
    assert (result(path, 4120) == 2 * X).all()


def test_a_long_input_is_read_in_another_thread(put, start, caller, shared):
    put("double", row=[16384])
    call = caller(start(system_shared_memory="read"))
    x = np.arange(32768, dtype=np.float32).reshape(2, 16384)
    call.register("r", shared(x.tobytes()), size=x.nbytes)
    made = pb.ModelInferRequest(model_name="double")
    made.inputs.add(name="x", datatype="FP32", shape=x.shape, parameters=placed("r", x.nbytes))
    assert call.infer(made).raw_output_contents[0] == (2 * x).tobytes()


def test_a_stream_has_such_requests(app, connect, call, shared):
    path = shared(X.tobytes() + bytes(64))
    call.register("r", path, 80)
    stream = connect(app).stream_stream(
        SERVICE + "ModelStreamInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    wrong = asked(placed("none", 16))
    replies = list(stream(iter([asked(placed("r", 16), placed("r", 16, 16)), wrong, asked()])))
    assert (result(path, 16) == 2 * X).all()
    assert "Unable to find system shared memory region: 'none'" in replies[1].error_message
    assert np.frombuffer(replies[2].infer_response.raw_output_contents[0], np.float32)[3] == 6


def test_http_has_the_same(http, shared):
    path = shared(X.tobytes() + bytes(64))
    base = "/v2/systemsharedmemory"
    body = {"key": path.name, "offset": 0, "byte_size": 80}
    assert http("POST", f"{base}/region/r/register", body).json == {}
    assert http("GET", f"{base}/status").json == [{"name": "r", **body}]
    assert http("GET", f"{base}/region/r/status").json == [{"name": "r", **body}]
    assert http("GET", f"{base}/region/s/status").status == 404
    assert "system_shared_memory" in http("GET", "/v2").json["extensions"]
    x: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    y = {"name": "y", "parameters": {**where, "shared_memory_offset": 16, "binary_data": True}}
    reply = http("POST", INFER, {"inputs": [{**x, "parameters": where}], "outputs": [y]})
    assert (result(path, 16) == 2 * X).all()
    (output,) = reply.json["outputs"]
    assert output == {**x, "name": "y", "parameters": {**where, "shared_memory_offset": 16}}
    reply = http("POST", INFER, {"inputs": [{**x, "parameters": where}]})
    assert reply.json["outputs"][0]["data"] == [0, 2, 4, 6]
    # Both beside data in the body.
    text = json.dumps({"inputs": [{**x, "parameters": {"binary_data_size": 16}}], "outputs": [y]}).encode()
    reply = http("POST", INFER, text + X.tobytes(), Inference_Header_Content_Length=str(len(text)))
    assert "data" not in reply.json["outputs"][0]
    for wrong in ({"key": path.name, "byte_size": -1}, {"key": 1}, {"key": path.name, "byte_size": 2**64}, {"a": 1}):
        assert http("POST", f"{base}/region/s/register", wrong).status == 400
    assert http("POST", f"{base}/region/r/unregister", b"").json == {}
    assert http("POST", INFER, {"inputs": [{**x, "parameters": where}]}).status == 404
    assert http("GET", f"{base}/status").json == []


WRONG = {
    "no such region": (placed("s", 16), None, "Unable to find system shared memory region: 's'"),
    "an offset at the end": (placed("r", 16, 64), None, "Invalid offset for shared memory region: 'r'"),
    "beyond the end": (placed("r", 16, 56), None, "Invalid offset + byte size for shared memory region: 'r'"),
    "an offset that overflows": (placed("r", 16, 2**64 - 8), None, "Invalid offset for shared memory region"),
    "a size that overflows": (placed("r", 2**63 - 1, 32), None, "Invalid offset + byte size"),
    "a size below 0": (placed("r", -1), None, "parameter 'shared_memory_byte_size': got -1"),
    "no elements": (placed("r", 0), None, "got 0 bytes of data, expected 16"),
    "too many elements": (placed("r", 64), None, "got 64 bytes of data, expected 16"),
    "no size": ({"shared_memory_region": pb.InferParameter(string_param="r")}, None, "'shared_memory_byte_size'"),
    "no name": (placed("", 16), None, "parameter 'shared_memory_region': got none"),
    "a result that is too large": (None, placed("r", 8), "(8 bytes) should be at least 16 bytes to hold the results"),
    "an output beyond the end": (None, placed("r", 16, 49), "Invalid offset + byte size"),
}


@pytest.mark.parametrize(("source", "target", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_place_is_refused(call, shared, source, target, text):
    path = shared()
    call.register("r", path)
    with pytest.raises(grpc.RpcError) as caught:
        call.infer(asked(source, target))
    assert text in caught.value.details()
    assert path.read_bytes() == bytes(64)


def test_a_file_that_changes_costs_its_own_requests(call, shared):
    path, other = shared(X.tobytes() + bytes(48)), shared(b"\1" * 64)
    call.register("r", path)
    before = open_files()

    def refused(text: str, request: pb.ModelInferRequest | None = None) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call.infer(request or asked(placed("r", 16)))
        assert (caught.value.code(), text in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)

    os.truncate(path, 8)
    refused("the file has 8 bytes now, expected at least 16")
    refused("the file has 8 bytes now", asked(None, placed("r", 16)))
    assert path.stat().st_size == 8
    os.truncate(path, 64)
    assert call.infer(asked(placed("r", 16)))
    other.rename(path)
    refused("the file was replaced; register it again")
    refused("the file was replaced", asked(None, placed("r", 16)))
    assert path.read_bytes() == b"\1" * 64
    path.unlink()
    refused("the file can't be used: No such file or directory")
    path.symlink_to("/etc/passwd")
    refused("the file can't be used: Too many levels of symbolic links")
    path.unlink()
    os.mkfifo(path)
    refused("it isn't a regular file")
    assert call.infer(asked())
    assert open_files() == before


def test_a_lease_of_the_file_makes_no_thread_wait(call, shared):
    path = shared(X.tobytes() + bytes(48))
    call.register("r", path)
    # Its holder, this process, has 45 seconds to give it back before another one may open the file.
    with path.open("r+b") as held:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(grpc.RpcError, match="the file can't be used: Resource temporarily unavailable"):
            call.infer(asked(placed("r", 16)))
        assert call.infer(asked())


def test_a_file_that_went_to_another_user_is_out_of_reach(call, shared):
    """The number of a deleted file may be that of another user's next one."""
    if os.geteuid():
        pytest.skip("only root gives files away")
    path = shared(X.tobytes() + bytes(48))
    call.register("r", path)
    os.chown(path, 12345, -1)
    for request in (asked(placed("r", 16)), asked(None, placed("r", 16, 16))):
        with pytest.raises(grpc.RpcError, match="the file was replaced; register it again"):
            call.infer(request)
    assert path.read_bytes()[16:] == bytes(48)


def test_a_region_that_was_unregistered_meanwhile_is_not_written(put, start, caller, shared, load_fake, wait_until):
    put("double")
    models = []

    def load(path: Path, settings: object = None) -> Any:
        models.append(load_fake(path))
        return models[-1]

    call, path = caller(start(load=load, system_shared_memory="write")), shared()
    call.register("r", path)
    (model,) = models
    model.gate.clear()
    infer = call._channel.unary_unary(SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString)
    answer = infer.future(asked(None, placed("r", 16)), timeout=60)
    wait_until(lambda: model.begun)
    call.unregister("r")
    model.gate.set()
    with pytest.raises(grpc.RpcError, match="Unable to find system shared memory region"):
        answer.result()
    assert path.read_bytes() == bytes(64)


def test_inputs_are_limited_like_a_message(put, start, caller, shared):
    put("double")
    call = caller(start(system_shared_memory="read", max_message_bytes=1 << 20))
    path = shared()
    os.truncate(path, 1 << 40)
    call.register("r", path, size=1 << 40)
    with pytest.raises(grpc.RpcError, match="expected at most 1048576"):
        call.infer(asked(placed("r", 1 << 39)))


def test_outputs_are_written_only_if_the_operator_says_so(put, start, caller, shared):
    put("double")
    call, path = caller(start(system_shared_memory="read")), shared(X.tobytes() + bytes(48))
    call.register("r", path)
    assert np.frombuffer(call.infer(asked(placed("r", 16))).raw_output_contents[0], np.float32)[3] == 6
    with pytest.raises(grpc.RpcError, match="this server only reads shared memory"):
        call.infer(asked(None, placed("r", 16)))
    assert path.read_bytes()[16:] == bytes(48)


def test_it_is_off_by_default(put, start, caller, shared):
    put("double")
    call, path = caller(start()), shared()
    assert call.regions() == []
    for change in (lambda: call.register("r", path), call.unregister):
        with pytest.raises(grpc.RpcError, match="Client shared memory is disabled"):
            change()
    with pytest.raises(grpc.RpcError, match="shared memory is disabled"):
        call.infer(asked(placed("r", 16)))
    assert "system_shared_memory" not in call("ServerMetadata", pb.ServerMetadataRequest()).extensions


def test_a_caller_sees_and_uses_its_own_regions_only(put, start, caller, shared, tmp_path):
    put("double")
    tokens = tmp_path / "tokens.toml"
    rights = 'rights = ["predict"]'
    tokens.write_text(
        entry("a", rights)
        + entry("b", rights)
        + entry("c", 'rights = ["predict"]\nmodels = ["other"]')
        + entry("d", 'rights = ["read"]')
    )
    app = start(system_shared_memory="write", tokens=tokens)
    a, b, c, d = (caller(app, name) for name in "abcd")
    path, other = shared(X.tobytes() + bytes(48)), shared()
    a.register("r", path)
    assert (a.regions(), b.regions()) == (["r"], [])
    for refused in (lambda: b.regions("r"), lambda: b.infer(asked(placed("r", 16), placed("r", 16)))):
        with pytest.raises(grpc.RpcError, match="Unable to find system shared memory region: 'r'"):
            refused()
    b.register("r", other)
    b.unregister()
    assert (a.regions(), b.regions()) == (["r"], [])
    c.register("r", path)
    with pytest.raises(grpc.RpcError) as caught:
        c.infer(asked(placed("r", 16)))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as caught:
        d.register("r", path)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert a.infer(asked(placed("r", 16)))


def test_files_of_other_users_are_out_of_reach(call, shared):
    if os.geteuid():
        pytest.skip("only root gives files away")
    path = shared()
    os.chown(path, 12345, -1)
    os.chmod(path, 0o666)
    with pytest.raises(grpc.RpcError, match="the file belongs to another user"):
        call.register("r", path)


def test_workers_forward_such_requests(tmp_path):
    settings = Settings(path=tmp_path, system_shared_memory="read")
    forwarded: list[Any] = []
    process: Any = SimpleNamespace(
        settings=settings, predictor=SimpleNamespace(), forward=lambda *call: forwarded.append(call)
    )
    TRITON.serving(process)
    taker = process.predictor.placed
    assert isinstance(taker, ForwardedRequests)
    call: Any = SimpleNamespace(request=b"message")
    asked: Any = SimpleNamespace(requested=SimpleNamespace(protocol=InferProtocol()))
    taker.take(call, asked, here=True)
    ((passed, message, reply),) = forwarded
    assert (passed, message, reply(b"reply")) == (call, b"message", b"reply")


def test_a_port_of_another_host_is_nobody_of_this_one():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")):
            with socket.socket(family) as client:
                client.connect((host, server.getsockname()[1]))
                port = client.getsockname()[1]
                assert connection_user("127.0.0.1", port) == os.geteuid()
                assert connection_user("192.0.2.7", port) is None
        # It only listens.
        assert connection_user("127.0.0.1", server.getsockname()[1]) is None
