"""Streams of the transports: they hold no thread, have limits, and end when their callers are silent."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import grpc
import pytest
from clocks import replace_time
from echo_servers import ECHO
from grpc_health.v1 import health_pb2, health_pb2_grpc
from layerserve.calls.connection import connection
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import IdleStreamError
from layerserve_server.transport import streams
from layerserve_server.transport.completion_queue import PolledStream
from layerserve_server.transport.streams import ServerStream


def opened(channel, count, method="endless"):
    streams = [channel.unary_stream(ECHO + method)(b"", timeout=60) for _ in range(count)]
    assert [next(stream) for stream in streams] == [b"open"] * count
    return streams


def silent(channel, method=ECHO + "upper"):
    """A stream that sends nothing and doesn't end, until `over` is set."""
    over = threading.Event()

    def nothing():
        over.wait(60)
        yield from ()

    return channel.stream_stream(method)(nothing(), timeout=60), over


def refused(stream):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    return caught.value


def test_streams_hold_no_threads(serve_echo):
    _, _, _, channel = serve_echo({"max_streams": 300, "max_peer_streams": 300})
    (first,) = opened(channel, 1)
    before = {thread.name for thread in threading.enumerate()}
    streams = opened(channel, 150)
    after = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in after if not name.startswith(("Thread-", "_call_behavior"))], after
    for stream in (first, *streams):
        stream.cancel()


def test_one_address_has_its_share(serve_echo):
    _, _, server, channel = serve_echo({"max_streams": 40, "max_peer_streams": 2})
    if type(server).__name__ == "NativeServer":
        pytest.skip("streams come from behind its front, which doesn't say whose they are")
    streams = opened(channel, 2)
    error = refused(channel.unary_stream(ECHO + "endless")(b"", timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "of one client address" in error.details()
    for stream in streams:
        stream.cancel()


def test_a_client_whose_watch_has_no_room_takes_the_server_for_healthy(serve_echo):
    """gRPC's clients send no calls to a server whose health they can't learn, unless it has no such method."""
    _, _, server, channel = serve_echo({"max_streams": 8, "max_peer_streams": 8})
    server.set_serving(True)
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(6)]
    assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 6
    error = refused(stub.Watch(health_pb2.HealthCheckRequest(), timeout=30))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "ask for the status by Check" in error.details()
    target, options = balanced(server)
    with grpc.insecure_channel(target, options) as other:
        assert other.unary_unary(ECHO + "echo")(b"a", timeout=30) == b"a"
    for stream in (*opened(channel, 2), *watches):  # of other methods there is room for two
        stream.cancel()


def test_watches_leave_room_for_other_streams_of_their_address(serve_echo):
    _, _, server, channel = serve_echo({"max_streams": 80, "max_peer_streams": 4})
    if type(server).__name__ == "NativeServer":
        pytest.skip("streams come from behind its front, which doesn't say whose they are")
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(3)]
    assert [len([next(watch)]) for watch in watches] == [1] * 3
    error = refused(stub.Watch(health_pb2.HealthCheckRequest(), timeout=30))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "all 3 streams of one client address" in error.details()
    for stream in (*opened(channel, 1), *watches):
        stream.cancel()


def balanced(server):
    """The address of a server and the options of a client that watches its health."""
    made = connection(f"ipv4:127.0.0.1:{server.port},127.0.0.1:{server.port}")
    return made.target, made.channel_options


def test_streams_of_one_method_leave_room_for_others(serve_echo):
    _, _, _, channel = serve_echo({"max_streams": 8, "max_peer_streams": 8})
    streams = opened(channel, 6)
    error = refused(channel.unary_stream(ECHO + "endless")(b"", timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "of 'endless'" in error.details()
    assert list(channel.unary_stream(ECHO + "count")(b"2", timeout=30)) == [b"0", b"1"]
    for stream in streams:
        stream.cancel()


def test_a_stream_that_sends_nothing_is_ended(serve_echo):
    _, observer, _, channel = serve_echo({"stream_idle_seconds": 0.2})
    streams = [silent(channel)[0] for _ in range(3)]
    for stream in streams:
        error = refused(stream)
        assert error.code() is grpc.StatusCode.ABORTED
        assert "sent no message for 0.2 seconds" in error.details()
    observer.wait_for(("upper", "", "ABORTED"))


def test_a_stream_that_is_sent_to_may_be_silent(serve_echo):
    """Those who watch send nothing, for as long as they like."""
    echo, _, _, channel = serve_echo({"stream_idle_seconds": 0.1})
    (stream,) = opened(channel, 1)
    ended, _ = silent(channel)
    assert refused(ended).code() is grpc.StatusCode.ABORTED
    assert not echo.gone.is_set()
    stream.cancel()
    assert echo.gone.wait(30)


def test_a_caller_that_takes_nothing_is_ended(serve_echo):
    echo, _, _, channel = serve_echo({"stalled_seconds": 0.3})
    for _ in range(2):  # the first costs the server none of its care for others
        stream = channel.unary_stream(ECHO + "flood")(b"", timeout=60)
        assert next(stream)
        assert echo.gone.wait(30)
        stream.cancel()
        echo.gone.clear()


def test_a_large_message_has_more_time_and_what_is_not_taken_is_dropped(monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, streams, monotonic=lambda: clock[0])
    monkeypatch.setattr(streams, "SLOWEST_BYTES", 10)
    sizes = []
    memory = SimpleNamespace(take=sizes.append, give=lambda size: sizes.append(-size))

    class Stream(ServerStream):
        caller, dropped = ANYONE, False

        def send_one(self, message):
            """Its client takes nothing."""

        def cancel(self):
            self.dropped = True

    async def send():
        stream = Stream(SimpleNamespace(loop=asyncio.get_running_loop(), memory=memory), "/a.B/c", "")
        sending = asyncio.ensure_future(stream.send(bytes(50)))
        await asyncio.sleep(0)
        for seconds, dropped in ((7.9, False), (0.2, True)):
            clock[0] += seconds
            stream.check_stalled(clock[0], 60, 3)
            assert stream.dropped is dropped
        with pytest.raises(IdleStreamError, match="the client read no message for 3 seconds"):
            await sending

    asyncio.run(send())
    assert sizes == [50, -50]


def test_many_watches_that_are_cancelled_leave_health_alone(serve_echo):
    _, _, server, channel = serve_echo({"max_streams": 400, "max_peer_streams": 400})
    server.set_serving(True)
    stub = health_pb2_grpc.HealthStub(channel)
    for _ in range(3):
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(80)]
        for number, watch in enumerate(watches):
            if number % 2:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
        server.set_serving(False)
        server.set_serving(True)
    for service in ("", "test.v1.Echo"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_a_stop_answers_calls_and_streams_under_way_and_refuses_new_ones(serve_echo):
    """Nobody is cancelled: what the grace is too short for, and what comes late, may go to another server."""
    echo, _, server, channel = serve_echo()
    hanging = channel.unary_unary(ECHO + "hang").future(b"", timeout=60)
    assert echo.called.wait(30)
    upload, _ = silent(channel)
    stopping = threading.Thread(target=server.stop, args=(0.3,))
    stopping.start()
    assert echo.stopping(channel)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO + "echo")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    stopping.join()
    assert {hanging.code(), refused(upload).code()} == {grpc.StatusCode.UNAVAILABLE}


def test_a_second_stop_shortens_the_first(serve_echo):
    echo, _, server, channel = serve_echo()
    hanging = channel.unary_unary(ECHO + "hang").future(b"", timeout=60)
    assert echo.called.wait(30)
    stopping = threading.Thread(target=server.stop, args=(600.0,))
    stopping.start()
    assert echo.stopping(channel)
    server.stop(0.0)
    stopping.join(30)
    assert not stopping.is_alive()
    assert hanging.code() is grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def kept(monkeypatch):
    """The streams that a server still has, with no garbage collector that comes: what circles keep stays."""
    streams = []
    begin = ServerStream.__init__

    def begin_noted(self, *arguments):
        begin(self, *arguments)
        streams.append(weakref.ref(self))

    monkeypatch.setattr(ServerStream, "__init__", begin_noted)
    gc.collect()
    gc.disable()
    yield lambda: [stream for stream in (found() for found in streams) if stream is not None]
    gc.enable()


def cancelled(channel, method):
    stream = channel.unary_stream(method)(b"", timeout=60)
    next(stream)
    stream.cancel()


def cancelled_at_once(channel, method):
    channel.unary_stream(method)(b"", timeout=60).cancel()


def late(channel, method):
    error = refused(channel.unary_stream(method)(b"", timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def wrong(channel, method):
    assert refused(channel.stream_stream(method)(iter(()), timeout=60)).code() is grpc.StatusCode.INVALID_ARGUMENT


def ended(channel, method):
    assert list(channel.unary_stream(ECHO + "count")(b"1", timeout=60)) == [b"0"]


def past_the_limit(channel, method):
    streams = opened(channel, 3)
    assert refused(channel.unary_stream(ECHO + "endless")(b"", timeout=60)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize("use", [cancelled, cancelled_at_once, late, wrong, ended, past_the_limit])
@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Watch", ECHO + "endless"])
def test_streams_that_have_ended_are_free_without_the_garbage_collector(serve_echo, kept, wait_until, use, method):
    channel = serve_echo()[-1]
    if use is wrong and method == ECHO + "endless":
        pytest.skip("it takes anything")
    use(channel, method)
    wait_until(lambda: not kept())


@pytest.fixture
def held_up(serve_echo):
    """A server whose handlers of streams can't begin until the event is set."""
    echo, observer, server, channel = serve_echo({"max_streams": 4})
    behind = getattr(server, "_behind", server)
    go_on, held = threading.Event(), threading.Event()

    def hold():
        held.set()
        assert go_on.wait(60)

    behind._streams.post(hold)
    assert held.wait(30)
    yield echo, observer, channel, go_on
    go_on.set()


def test_streams_that_come_faster_than_they_begin_are_refused_at_once(held_up, wait_until):
    _, observer, channel, go_on = held_up
    waiting = [channel.unary_stream(ECHO + "count")(b"1", timeout=60) for _ in range(12)]
    wait_until(lambda: sum(stream.done() for stream in waiting) == 8)  # while none can begin
    early = [stream for stream in waiting if stream.done()]
    assert {(stream.code(), stream.details()) for stream in early} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams arrived at once")
    }
    go_on.set()
    for stream in waiting:
        with suppress(grpc.RpcError):
            assert list(stream) == [b"0"]
    wait_until(lambda: len(observer.ended) == 12)
    # Four began; a method alone has three of four places.
    assert Counter(status for _, _, status in observer.ended) == {"OK": 3, "RESOURCE_EXHAUSTED": 9}
    assert observer.began == 12


def test_a_stream_whose_caller_goes_away_before_it_begins_does_not_begin(held_up, monkeypatch):
    echo, observer, channel, go_on = held_up
    taken, left = threading.Event(), threading.Event()
    start, closed = PolledStream.start, PolledStream._closed
    monkeypatch.setattr(PolledStream, "start", lambda stream: (start(stream), taken.set())[0])
    monkeypatch.setattr(PolledStream, "_closed", lambda stream, event: (closed(stream, event), left.set())[0])
    stream = channel.unary_stream(ECHO + "endless")(b"", timeout=60)
    assert taken.wait(30)
    stream.cancel()
    assert left.wait(30)
    go_on.set()
    observer.wait_for(("endless", "", "CANCELLED"))
    assert not echo.gone.is_set()
