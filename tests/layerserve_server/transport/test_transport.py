"""The transports: raw bytes through a real port, errors as statuses, streams apart from unary calls."""

import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace

import grpc
import pytest
from echo_servers import ECHO, Echo, Observer, needs_native, server_of
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from layerserve.errors import from_status
from layerserve_server.transport import completion_queue
from layerserve_server.transport.call import Routes
from layerserve_server.transport.completion_queue import UnsupportedGrpcioError
from layerserve_server.transport.grpcio import GrpcioServer, SharedPort
from layerserve_server.transport.native import MAX_FOLDER_BYTES, NativeServer, NativeUnavailableError
from some_limits import some_limits


def call(channel, method, data=b"x", **options):
    return channel.unary_unary(ECHO + method)(data, timeout=30, **options)


@pytest.mark.parametrize("method", ["echo", "later"])
def test_bytes_come_back(serve_echo, method):
    _, observer, _, channel = serve_echo()
    assert call(channel, method, b"\0\xff") == b"\0\xff"
    observer.wait_for((method, "m" if method == "echo" else "", "OK"))


def test_a_deadline_comes_along(serve_echo):
    echo, _, _, channel = serve_echo()
    channel.unary_unary(ECHO + "echo")(b"")
    assert echo.deadline is None
    call(channel, "echo")
    assert echo.deadline is not None


@pytest.mark.parametrize(
    ("method", "code", "metadata"),
    [
        ("invalid", grpc.StatusCode.INVALID_ARGUMENT, {"layerserve-reason": "invalid_request"}),
        ("busy", grpc.StatusCode.RESOURCE_EXHAUSTED, {"layerserve-reason": "busy"}),
        ("defect", grpc.StatusCode.INTERNAL, {"layerserve-reason": "internal"}),
        ("slow_defect", grpc.StatusCode.INTERNAL, {"layerserve-reason": "internal"}),
    ],
)
def test_errors_become_statuses(serve_echo, method, code, metadata):
    _, observer, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method)
    assert caught.value.code() is code
    assert metadata.items() <= dict(caught.value.trailing_metadata()).items()
    assert "secret" not in caught.value.details()
    observer.wait_for((method, "", code.name))


def test_who_comes_too_early_is_told_when_to_come_back(serve_echo):
    _, _, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "busy")
    error = from_status(caught.value.code(), caught.value.details(), caught.value.trailing_metadata())
    assert error.retry_after == 0.5


def test_an_unknown_method_is_unimplemented(serve_echo):
    _, _, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_that_is_too_large_is_refused(serve_echo):
    _, _, _, channel = serve_echo()
    assert call(channel, "echo", metadata=[("key", "v" * 4000)]) == b"x"
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "echo", metadata=[("key", "v" * 20_000)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(channel, "echo") == b"x"


@pytest.mark.parametrize("method", ["/test.v1.Echo/", "//", "/echo", "/test.v1.Echo/echo/", "/test.v1.\xe9/echo"])
def test_a_method_that_is_none_is_told_with_a_reason(serve_echo, method):
    _, observer, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"x", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert dict(caught.value.trailing_metadata())["layerserve-reason"] == "unknown_method"
    # Each name that callers make up would be a time series else.
    observer.wait_for(("unknown", "", "UNIMPLEMENTED"))


def test_errors_have_the_details_that_all_clients_of_grpc_read(serve_echo):
    _, _, _, channel = serve_echo()
    found = {}
    for method in ("invalid", "busy"):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, method)
        status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
        assert (status.code, status.message) == (caught.value.code().value[0], caught.value.details())
        found[method] = {detail.TypeName(): detail for detail in status.details}
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    assert found["invalid"]["google.rpc.ErrorInfo"].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "layerserve")
    assert found["invalid"]["google.rpc.BadRequest"].Unpack(request)
    assert "good" in request.field_violations[0].description
    assert found["busy"]["google.rpc.RetryInfo"].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 500


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused_also_when_it_is_small_on_the_wire(serve_echo, compression):
    _, _, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "echo", bytes(20_000), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def messages(value):
    """The messages among the values of a variable."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from messages(one)
    elif isinstance(request := getattr(value, "request", None), bytes):
        yield request


def is_held(size):
    """Whether a thread has a message of this size in a variable."""
    for frame in sys._current_frames().values():
        while frame is not None:
            if any(len(message) == size for value in frame.f_locals.values() for message in messages(value)):
                return True
            frame = frame.f_back
    return False


@pytest.mark.parametrize("method", ["busy", "invalid", "slow"])
def test_no_thread_keeps_a_message_until_the_next_one_comes(serve_echo, wait_until, method):
    _, _, _, channel = serve_echo()
    size = 9_876
    with suppress(grpc.RpcError):
        call(channel, method, bytes(size))
    wait_until(lambda: not is_held(size))


def test_a_caller_that_goes_away_is_noticed(serve_echo):
    echo, observer, _, channel = serve_echo()
    future = channel.unary_unary(ECHO + "hang").future(b"")
    assert echo.called.wait(30)
    future.cancel()
    assert echo.gone.wait(30)
    observer.wait_for(("hang", "", "CANCELLED"))


def test_a_deadline_that_passes_is_noticed(serve_echo):
    echo, _, _, channel = serve_echo()
    # On a busy machine the shorter ones may pass before the call has arrived.
    for timeout in (0.05, 1, 20):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(ECHO + "hang")(b"", timeout=timeout)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if echo.called.is_set():
            break
    assert echo.gone.wait(30)


def test_streams_go_both_ways(serve_echo):
    _, _, _, channel = serve_echo()
    assert list(channel.unary_stream(ECHO + "count")(b"3", timeout=30)) == [b"0", b"1", b"2"]
    assert list(channel.stream_stream(ECHO + "upper")(iter([b"a", b"b"]), timeout=30)) == [b"A", b"B"]


def open_streams(channel, count):
    streams = [channel.unary_stream(ECHO + "endless")(b"", timeout=60) for _ in range(count)]
    assert [next(stream) for stream in streams] == [b"open"] * count
    return streams


def test_watchers_never_keep_unary_calls_waiting_and_too_many_are_refused(serve_echo):
    _, _, _, channel = serve_echo({"rpc_threads": 1, "max_streams": 3})
    streams = open_streams(channel, 3)
    assert call(channel, "echo") == b"x"
    with pytest.raises(grpc.RpcError) as caught:
        next(channel.unary_stream(ECHO + "endless")(b"", timeout=30))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "all 3 streams" in caught.value.details()
    for stream in streams:
        stream.cancel()


def test_a_stream_that_ends_makes_room(serve_echo):
    _, observer, _, channel = serve_echo({"max_streams": 1})
    for _ in range(3):
        assert len(list(channel.unary_stream(ECHO + "count")(b"2", timeout=30))) == 2
        observer.wait_for(("count", "", "OK"))
        observer.ended.clear()


def test_stopping_closes_streams_and_lets_calls_finish(serve_echo):
    echo, _, server, channel = serve_echo()
    (stream,) = open_streams(channel, 1)
    server.stop(30)
    assert echo.gone.is_set()
    assert list(stream) == []


def test_stopping_takes_the_last_events_of_grpcios_server():
    """Else each stop would take as long as it waits for them."""
    server = server_of(GrpcioServer, Echo().routes(), some_limits(1024, 4, 4, 100))
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert call(channel, "echo") == b"x"
    server.stop(0)
    timed_out = server._server.wait_for_termination(5)
    assert not timed_out


def test_health_says_what_it_was_told_for_every_service(serve_echo):
    _, _, server, channel = serve_echo()
    stub = health_pb2_grpc.HealthStub(channel)

    def status(name):
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status

    assert {status(""), status("test.v1.Echo")} == {health_pb2.HealthCheckResponse.NOT_SERVING}
    server.set_serving(True)
    assert {status(""), status("test.v1.Echo")} == {health_pb2.HealthCheckResponse.SERVING}
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.set_serving(False)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


def test_health_answers_while_every_thread_works(serve_echo):
    echo, _, server, channel = serve_echo({"rpc_threads": 1})
    server.set_serving(True)
    future = channel.unary_unary(ECHO + "hang").future(b"")
    assert echo.called.wait(30)
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    future.cancel()


def test_a_port_that_is_taken_is_told(serve_echo):
    _, observer, server, _ = serve_echo()
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{server.port}"):
        server_of(type(server), Routes(), some_limits(1024, 1, 1, 8), observer, port=server.port)


def test_work_for_afterwards_and_work_that_may_take_long_get_done(serve_echo):
    _, _, _, channel = serve_echo()
    futures = [channel.unary_unary(ECHO + "together").future(b"", timeout=30) for _ in range(4)]
    assert [future.result() for future in futures] == [b"done"] * 4
    assert call(channel, "slow") != b"native"


def test_a_client_gives_itself_no_other_address(serve_echo):
    """Not through a front either, which passes on all that its clients send."""
    _, _, server, channel = serve_echo()
    stream = channel.unary_stream(ECHO + "endless")(b"", timeout=30, metadata=[("layerserve-peer", "10.9.9.9")])
    assert next(stream) == b"open"
    (held,) = getattr(server, "_behind", server)._streams._open
    assert held.peer in ("127.0.0.1", "")
    stream.cancel()


@needs_native
def test_the_native_transport_refuses_tls():
    with pytest.raises(NativeUnavailableError, match="doesn't support TLS"):
        server_of(NativeServer, Routes(), some_limits(1024, 1, 1, 8), certificates=object())


@needs_native
def test_a_folder_for_temporary_files_with_a_long_path_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * (MAX_FOLDER_BYTES + 1))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(
        NativeUnavailableError, match="x, whose path is too long: expected at most 74 bytes; set TMPDIR"
    ):
        server_of(NativeServer, Routes(), some_limits(1024, 1, 1, 8))
    # A folder of the maximum length holds the socket's path.
    assert MAX_FOLDER_BYTES + len("/layerserve-xxxxxxxx/grpcio.sock") < 108


def test_a_missing_extension_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    with pytest.raises(NativeUnavailableError, match=r"pip install 'pygrpc-native"):
        server_of(NativeServer, Routes(), some_limits(1024, 1, 1, 8))


def test_an_unknown_release_of_grpcio_is_told(monkeypatch):
    monkeypatch.setattr(completion_queue, "INTERNALS", ("_unheard_of",))
    with pytest.raises(UnsupportedGrpcioError, match="has no _unheard_of; install a release"):
        server_of(GrpcioServer, Routes(), some_limits(1024, 1, 1, 8))


def test_a_caller_that_sends_nothing_is_told():
    """Only a client that isn't grpcio's own does: here one message too few on a call of another kind."""
    echo = Echo()
    server = server_of(GrpcioServer, echo.routes(), some_limits(1024, 4, 4, 100))
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        replies = channel.stream_stream(ECHO + "echo")(iter(()), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert call(channel, "echo") == b"x"
    server.stop(0)


def test_what_another_server_answers_is_handed_on(tmp_path):
    """Unary calls, streams both ways, errors, deadlines and callers that go away."""
    shared = SharedPort(tmp_path / "owner.sock", owner=True)
    echo = Echo()
    owner = server_of(GrpcioServer, echo.routes(), some_limits(10_000, 8, 8, 100), shared=shared)
    owner.start()
    shared = SharedPort(tmp_path / "owner.sock", owner=False)
    observer = Observer()
    other = server_of(GrpcioServer, Routes(), some_limits(10_000, 8, 8, 100), observer, shared=shared)
    other.start()
    with grpc.insecure_channel(f"127.0.0.1:{other.port}") as channel:
        assert call(channel, "echo", b"abc") == b"abc"
        assert echo.deadline is not None
        assert list(channel.unary_stream(ECHO + "count")(b"3", timeout=30)) == [b"0", b"1", b"2"]
        assert list(channel.stream_stream(ECHO + "upper")(iter([b"a", b"b"]), timeout=30)) == [b"A", b"B"]
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "invalid")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(caught.value.trailing_metadata())["layerserve-reason"] == "invalid_request"
        future = channel.unary_unary(ECHO + "hang").future(b"")
        assert echo.called.wait(30)
        future.cancel()
        assert echo.gone.wait(30)
        owner.set_serving(True)
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    other.stop(0)
    owner.stop(0)
    assert (observer.began, observer.ended) == (0, []), "calls that are handed on are counted where they are answered"


def test_refusals_of_another_server_keep_their_status(tmp_path):
    """Also those that come while the request is being passed on."""
    shared = SharedPort(tmp_path / "owner.sock", owner=True)
    few, many = some_limits(10_000, 8, 4, 100), some_limits(10_000, 8, 1000, 1000)
    owner = server_of(GrpcioServer, Echo().routes(), few, shared=shared)
    owner.start()
    shared = SharedPort(tmp_path / "owner.sock", owner=False)
    other = server_of(GrpcioServer, Routes(), many, shared=shared)
    other.start()
    with grpc.insecure_channel(f"127.0.0.1:{other.port}") as channel:
        for _ in range(5):
            streams = [channel.unary_stream(ECHO + "count")(b"1", timeout=60) for _ in range(100)]
            for stream in streams:
                with suppress(grpc.RpcError):
                    assert list(stream) == [b"0"]
            ends = {(stream.code(), stream.details()) for stream in streams}
            assert {code for code, _ in ends} <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, ends
    other.stop(0)
    owner.stop(0)


def test_a_shared_port_limits_the_calls_of_a_connection_and_forwards_those_of_several(tmp_path):
    limits, servers = some_limits(10_000, 8, 16, 100, max_connection_calls=4), []
    for owner, routes in ((True, Echo().routes()), (False, Routes())):
        shared = SharedPort(tmp_path / "owner.sock", owner)
        servers.append(server_of(GrpcioServer, routes, limits, shared=shared))
        servers[-1].start()
    with ExitStack() as stack:

        def connection(server):
            options = [("grpc.use_local_subchannel_pool", 1)]
            return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options))

        def opened(channel):
            stream = channel.unary_stream(ECHO + "endless")(b"", timeout=60)
            assert next(stream) == b"open"
            return stream

        channels = [connection(server) for server in (*servers, servers[1])]
        streams = [[opened(channel) for _ in range(4)] for channel in channels]
        for channel, own in zip(channels, streams, strict=True):
            waiting = channel.unary_unary(ECHO + "echo").future(b"x", timeout=60)
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(0.2)
            own.pop().cancel()
            assert waiting.result(30) == b"x"
            # grpcio's server counts an ended call a moment longer than grpcio's client, and may refuse another.
            if channel is not channels[0]:
                own.append(opened(channel))
        # Connections to the other server are used again.
        assert len(servers[1]._forwarder._channels) <= 5
    for server in reversed(servers):
        server.stop(0)


def test_what_is_wrong_with_a_message_is_said_by_whoever_hands_it_on(tmp_path):
    """It reads messages first: the other server never sees them."""
    limits = some_limits(1000, 8, 8, 100, stream_idle_seconds=0.3)
    shared = SharedPort(tmp_path / "owner.sock", owner=True)
    patient = replace(limits, stream_idle_seconds=60.0)
    owner = server_of(GrpcioServer, Echo().routes(), patient, shared=shared)
    owner.start()
    shared = SharedPort(tmp_path / "owner.sock", owner=False)
    other = server_of(GrpcioServer, Routes(), limits, shared=shared)
    other.start()
    over = threading.Event()

    def nothing():
        yield b"a"
        over.wait(60)

    with grpc.insecure_channel(f"127.0.0.1:{other.port}") as channel:
        upper = channel.stream_stream(ECHO + "upper")
        for messages, compression, code in (
            (iter([b"a", bytes(100_000)]), grpc.Compression.Gzip, grpc.StatusCode.RESOURCE_EXHAUSTED),
            (iter([b"a", b"\x1f\x8b damaged"]), None, grpc.StatusCode.INVALID_ARGUMENT),
            (nothing(), None, grpc.StatusCode.ABORTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(upper(messages, timeout=30, compression=compression))
            assert caught.value.code() is code, caught.value.details()
    over.set()
    other.stop(0)
    owner.stop(0)
