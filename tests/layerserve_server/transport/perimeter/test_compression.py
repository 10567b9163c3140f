"""Compressed messages: what comes out of them has the limits of any message, and costs no other caller anything."""

from __future__ import annotations

import gzip
import threading
import zlib

import grpc
import pytest
from echo_servers import ECHO
from google.protobuf.descriptor import FieldDescriptor
from layerserve.v1 import models_pb2, prediction_pb2, training_pb2
from layerserve_server.errors import BusyError, InvalidRequestError, TooLargeError
from layerserve_server.transport import event_batch
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.perimeter import compression
from layerserve_server.transport.perimeter.compression import PROMPT_BYTES, decompressed, decompressed_if_short
from layerserve_server.transport.perimeter.memory import MemoryBudget

KINDS = [grpc.Compression.Gzip, grpc.Compression.Deflate]
WRITERS = {"gzip": gzip.compress, "deflate": zlib.compress}
LIMIT = 4 * CHUNK_BYTES
LENGTHS = [0, 1, PROMPT_BYTES - 1, PROMPT_BYTES, PROMPT_BYTES + 1, CHUNK_BYTES, 2 * CHUNK_BYTES, LIMIT]


class Noted(MemoryBudget):
    """Notes the most that was held."""

    most = 0

    def take(self, count):
        super().take(count)
        self.most = max(self.most, self.held)


def serve(serve_echo, kind, **limits):
    _, _, server, channel = serve_echo(limits)
    if type(server).__name__ == "NativeServer" and kind is grpc.Compression.Deflate:
        pytest.skip("its library knows gzip only, and refuses the rest")
    return server, channel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [10, 300_000])
def test_compressed_messages_are_taken_on_calls_and_streams(serve_echo, kind, size):
    _, channel = serve(serve_echo, kind, max_message_bytes=1 << 20)
    sent = b"x" * size
    assert channel.unary_unary(ECHO + "echo")(sent, timeout=30, compression=kind) == sent
    upper = channel.stream_stream(ECHO + "upper")(iter([sent, b"y", sent]), timeout=30, compression=kind)
    assert list(upper) == [sent.upper(), b"Y", sent.upper()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limit", "size"), [(1 << 20, 8 << 20), (1000, 1001)])
def test_what_is_too_large_once_it_is_decompressed_is_refused(serve_echo, kind, limit, size):
    server, channel = serve(serve_echo, kind, max_message_bytes=limit)
    for answer in (
        lambda: channel.unary_unary(ECHO + "echo")(bytes(size), timeout=30, compression=kind),
        lambda: list(channel.stream_stream(ECHO + "upper")(iter([bytes(size)]), timeout=30, compression=kind)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            answer()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.memory.held == 0


def test_what_takes_long_to_decompress_holds_up_no_other_call(serve_echo, monkeypatch):
    _, _, server, channel = serve_echo({"max_message_bytes": 1 << 20})
    if type(server).__name__ == "NativeServer":
        pytest.skip("its library decompresses messages itself")
    begun, go_on = threading.Event(), threading.Event()

    def slowly(message, limit, memory):
        begun.set()
        assert go_on.wait(30)
        return decompressed(message, limit, memory)

    monkeypatch.setattr(event_batch, "decompressed", slowly)
    echo = channel.unary_unary(ECHO + "echo")
    future = echo.future(bytes(300_000), timeout=60, compression=grpc.Compression.Gzip)
    assert begun.wait(30)
    assert echo(b"x", timeout=30) == b"x"
    assert echo(b"y" * 1000, timeout=30, compression=grpc.Compression.Gzip) == b"y" * 1000
    go_on.set()
    assert future.result() == bytes(300_000)


@pytest.mark.parametrize("method", ["echo", "upper"])
def test_what_only_looks_compressed_is_refused_as_wrong(serve_echo, method):
    """No protobuf message begins as gzip does, whatever its flag says."""
    _, _, _, channel = serve_echo()
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(ECHO + method)(iter([b"\x1f\x8b and more"]), timeout=30))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("length", LENGTHS)
def test_messages_of_all_lengths_come_out_whole(writer, length):
    memory = MemoryBudget(1 << 30)
    # Zeros compress to a thousandth; what doesn't compress ends at other places.
    for sent in (bytes(length), bytes(range(251)) * (length // 251)):
        message = WRITERS[writer](sent)
        assert compression.is_compressed(message)
        assert decompressed(message, LIMIT, memory) == sent
        short = decompressed_if_short(message)
        assert short == sent if len(sent) < PROMPT_BYTES else short in (None, sent)
    assert memory.held == 0


@pytest.mark.parametrize("writer", WRITERS)
def test_no_more_is_decompressed_than_may_come(writer):
    memory = Noted(1 << 30)
    with pytest.raises(TooLargeError):
        decompressed(WRITERS[writer](bytes(100 << 20)), LIMIT, memory)
    assert (memory.held, memory.most) == (0, LIMIT + CHUNK_BYTES)


def test_what_is_decompressed_counts_against_the_memory_for_all_callers():
    memory = Noted(2 * CHUNK_BYTES)
    with pytest.raises(BusyError):
        decompressed(gzip.compress(bytes(LIMIT)), LIMIT, memory)
    assert (memory.held, memory.most) == (0, 2 * CHUNK_BYTES)


@pytest.mark.parametrize("length", [1000, 200_000])
@pytest.mark.parametrize("harm", ["cut", "changed", "longer"])
def test_damaged_messages_are_refused(length, harm):
    message = gzip.compress(bytes(range(256)) * (length // 256))
    message = {"cut": message[:-9], "changed": message[:-6] + b"\xff" + message[-5:], "longer": message + b"\0"}[harm]
    memory = MemoryBudget(1 << 30)
    with pytest.raises(InvalidRequestError):
        decompressed(message, LIMIT, memory)
    if harm != "cut" and length < PROMPT_BYTES:  # where its end is missing can't be seen at once
        with pytest.raises(InvalidRequestError):
            decompressed_if_short(message)
    assert memory.held == 0


def test_no_request_begins_as_deflate_does():
    """Its first byte would be the tag of a field number 15 that is a whole number."""
    varints = {FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_INT32}
    varints |= {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64}
    requests = [
        method.input_type
        for file in (models_pb2, prediction_pb2, training_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert len(requests) > 10
    for request in requests:
        field = request.fields_by_number.get(15)
        assert field is None or field.type not in varints
