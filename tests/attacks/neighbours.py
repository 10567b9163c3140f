"""Floods and slow connections: what one connection does must not reach another."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc

from attacks.check import Check, Scene
from attacks.frames import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Ended,
    Wire,
    call_headers,
    frame,
    header_block,
    message,
)
from attacks.honest import OWN
from attacks.memory import BUDGET, GROWTH
from attacks.messages import (
    CHECK,
    LIST_MODELS,
    LIST_RUNS,
    NODE_SHAPES,
    PREDICT,
    PREDICT_STREAM,
    node_shapes,
    predict,
    predict_wide,
)

#: Frames that are written at once.
BATCH = 100


def flood(address: tuple[str, int], kind: str, seconds: float) -> Counter[str]:
    """Frames of a kind, as fast as the server takes them; a new connection for each that the server ends."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with Wire(address) as wire:
                batches = FLOODS[kind](wire)
                while time.monotonic() < until:
                    wire.send(next(batches))
                    seen["frames"] += BATCH
                    wire.read(0.001)
                    wire.answers.clear()
        except Ended:
            seen["connections ended"] += 1
        except OSError as error:
            seen[f"not connected: {error}"] += 1
            time.sleep(0.01)
    return seen


def _resets(wire: Wire, with_message: bytes = b""):
    block = header_block(call_headers(PREDICT.encode()))
    number = 1
    while True:
        batch = []
        for _ in range(BATCH):
            batch.append(frame(HEADERS, 4, number, block))
            if with_message:
                batch.append(frame(DATA, 1, number, with_message))
            batch.append(frame(RST_STREAM, 0, number, struct.pack(">I", 8)))
            number += 2
        yield b"".join(batch)


def _deadlines(wire: Wire):
    block = header_block(call_headers(PREDICT.encode(), (b"grpc-timeout", b"1m")))
    data, number = message(predict_wide(4)), 1
    while True:
        yield b"".join(
            frame(HEADERS, 4, stream, block) + frame(DATA, 1, stream, data)
            for stream in range(number, number + 2 * BATCH, 2)
        )
        number += 2 * BATCH


def _always(batch: bytes) -> Callable[[Wire], object]:
    def batches(wire: Wire):
        while True:
            yield batch

    return batches


def _on_a_stream(batch: Callable[[int], bytes], path: str = PREDICT_STREAM) -> Callable[[Wire], object]:
    def batches(wire: Wire):
        number = wire.open(path)
        while True:
            yield batch(number) * BATCH

    return batches


def _continuation(wire: Wire):
    """Headers that never end."""
    yield frame(HEADERS, 0, 1, header_block([(b"a", b"b")]))
    while True:
        yield frame(CONTINUATION, 0, 1, header_block([(b"a" * 10, b"b" * 100)])) * BATCH


FLOODS: dict[str, Callable[[Wire], object]] = {
    "resets": _resets,
    "resets of whole calls": lambda wire: _resets(wire, message(predict())),
    "deadlines of 1 ms": _deadlines,
    "PING": _always(frame(PING, 0, 0, bytes(8)) * BATCH),
    "SETTINGS": _always(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * BATCH),
    "PRIORITY": _always(frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 10)) * BATCH),
    "WINDOW_UPDATE": _always(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * BATCH),
    "unknown frames": _always(frame(99, 0, 0, bytes(100)) * BATCH),
    "CONTINUATION": _continuation,
    "empty DATA": _on_a_stream(lambda number: frame(DATA, 0, number)),
    "DATA of 1 byte": _on_a_stream(lambda number: frame(DATA, 0, number, b"\0")),
    "empty messages": _on_a_stream(lambda number: frame(DATA, 0, number, message(b""))),
}


def large_metadata(address: tuple[str, int], size: int, seconds: float) -> Counter[str]:
    """Calls with much metadata on connections that never acknowledge the server's settings, with their limit of it."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with Wire(address, acknowledges=False) as wire:
                while time.monotonic() < until:
                    wire.open(CHECK, (b"x-large", b"a" * size))
                    seen["calls"] += 1
                    wire.read(0.001)
        except (Ended, OSError):
            seen["connections ended"] += 1
    return seen


def mixed_deadlines(address: tuple[str, int], seconds: float) -> Counter[str]:
    """One connection on which most calls have too little time, and some enough: what those with enough see."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
        call = channel.unary_unary(PREDICT)

        def hurry() -> None:
            while time.monotonic() < until:
                futures = [call.future(predict(), timeout=0.001) for _ in range(20)]
                for future in futures:
                    seen[f"hurried {future.code().name}"] += 1

        threads = [threading.Thread(target=hurry) for _ in range(2)]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            try:
                call(predict(), timeout=10)
                seen["OK"] += 1
            except grpc.RpcError as error:
                seen[f"patient {error.code().name}: {error.details()}"] += 1
        for thread in threads:
            thread.join()
    return seen


def slow_starts(address: tuple[str, int], start: bytes, count: int, seconds: float) -> Counter[str]:
    """Connections that begin, and go on with a byte a second: how many the server has ended after the time."""
    wires = []
    seen: Counter[str] = Counter()
    for _ in range(count):
        wire = Wire(address, preface=False)
        if start:
            wire.send(start)
        wires.append(wire)
    until = time.monotonic() + seconds
    while wires and time.monotonic() < until:
        time.sleep(1)
        for wire in tuple(wires):
            try:
                wire.read(0.001)
                wire.send(b"P")
            except Ended:
                seen["ended"] += 1
                wire.close()
                wires.remove(wire)
    for wire in wires:
        seen["open"] += 1
        wire.close()
    return seen


def idle_connections(address: tuple[str, int], count: int, seconds: float, used: bool = False) -> Counter[str]:
    """Connections that say no more than the preface, or one call."""
    seen: Counter[str] = Counter()
    wires = []
    for _ in range(count):
        try:
            wire = Wire(address)
            if used:
                wire.call(CHECK, message(b""), seconds=2)
            wires.append(wire)
            seen["connected"] += 1
        except (Ended, OSError) as error:
            seen[f"refused: {error}"] += 1
    time.sleep(seconds)
    for wire in wires:
        wire.close()
    return seen


def garbage(address: tuple[str, int], seconds: float) -> Counter[str]:
    """What isn't HTTP/2 at all."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    starts = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1000), b"\x16\x03\x01\x02\x00\x01", b"\xff" * 100_000)
    while time.monotonic() < until:
        for start in starts:
            with socket.create_connection(address, 5) as connection:
                try:
                    connection.sendall(start)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1000)
                except OSError:
                    pass
                seen["connections"] += 1
    return seen


def slow_probes(address: tuple[str, int], http_port: int, count: int, seconds: float) -> Counter[str]:
    """Connections to the port of the metrics that send a byte a second."""
    seen: Counter[str] = Counter()
    connections = []
    for _ in range(count):
        connections.append(socket.create_connection((address[0], http_port), 10))
        seen["connected"] += 1
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for connection in tuple(connections):
            try:
                connection.sendall(b"G")
            except OSError:
                seen["ended"] += 1
                connections.remove(connection)
        time.sleep(1)
    for connection in connections:
        connection.close()
    return seen


def ask_again(address: tuple[str, int], http_port: int, path: str, seconds: float) -> Counter[str]:
    """A path of the port of the metrics, asked for without a pause."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection(address[0], http_port, timeout=10)
            connection.request("GET", path)
            seen[f"HTTP {connection.getresponse().status}"] += 1
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            seen[f"{type(error).__name__}"] += 1
    return seen


def call_again(address: tuple[str, int], path: str, request: bytes, seconds: float) -> Counter[str]:
    """Calls of a method that are right, a hundred at once."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
        call = channel.unary_unary(path)
        while time.monotonic() < until:
            for future in [call.future(request, timeout=30) for _ in range(100)]:
                seen[future.code().name] += 1
    return seen


def _flooded(kind: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(flood, kind, scene.seconds, times=2)
        scene.expect(seen["frames"], f"{dict(seen)}")
        return seen

    return run


def _large_metadata(scene: Scene) -> Counter[str]:
    return scene.attack(large_metadata, 10_000_000, scene.seconds, times=2)


def _mixed_deadlines(scene: Scene) -> Counter[str]:
    seen = scene.attack(mixed_deadlines, scene.seconds)
    scene.expect(seen["OK"] > 10, f"calls that have time: {dict(seen)}")
    scene.only(seen, "OK", "hurried OK", "hurried DEADLINE_EXCEEDED")
    return seen


def _slow_starts(scene: Scene) -> Counter[str]:
    starts = (b"", b"PRI * HTTP/2.0\r\n\r\nS", b"GET / HT", b"\x16\x03")
    futures = [scene.pool.submit(slow_starts, scene.server.address, start, 50, 10.0) for start in starts]
    seen: Counter[str] = sum((future.result() for future in futures), Counter())
    scene.expect(seen["ended"] == 200, f"connections that don't begin within 2 seconds: {dict(seen)}")
    return seen


def _idle_connections(count: int, used: bool) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        return scene.attack(idle_connections, count // 2, scene.seconds, used, times=2)

    return run


def _slow_probes(scene: Scene) -> Counter[str]:
    return scene.attack(slow_probes, scene.server.http_port, 250, scene.seconds, times=2)


def _asked_again(path: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(ask_again, scene.server.http_port, path, scene.seconds, times=2)
        scene.only(seen, "HTTP 200")
        return seen

    return run


def _called_again(path: str, request: bytes) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(call_again, path, request, scene.seconds, times=2)
        scene.only(seen, "OK", "RESOURCE_EXHAUSTED")
        return seen

    return run


def _garbage(scene: Scene) -> Counter[str]:
    return scene.attack(garbage, scene.seconds)


#: Times so short that ends are seen.
IMPATIENT = {"handshake_seconds": 2.0, "stalled_seconds": 3.0}
RESETS = "h2 counts calls that end early as resets, and ends a connection with many of them"

CHECKS = [
    *(Check(f"flood of {kind}", 5, _flooded(kind), settings=IMPATIENT) for kind in FLOODS),
    Check(
        "10 MB of metadata a call, before settings are acknowledged",
        5,
        _large_metadata,
        settings={**IMPATIENT, "max_buffered_bytes": BUDGET},
        memory=GROWTH,
    ),
    Check(
        "calls with too little time beside calls with enough, on one connection",
        5,
        _mixed_deadlines,
        settings=IMPATIENT,
        beyond={"native": RESETS},
    ),
    Check(
        "200 connections that send a byte a second",
        5,
        _slow_starts,
        settings=IMPATIENT,
    ),
    Check("what isn't HTTP/2", 5, _garbage, settings=IMPATIENT),
    Check(
        "3000 idle connections",
        5,
        _idle_connections(3000, False),
        settings=IMPATIENT,
    ),
    Check("500 slow connections to the port of the metrics", 5, _slow_probes),
    Check("/metrics, again and again", 5, _asked_again("/metrics")),
    Check("flood of Predict", 5, _called_again(PREDICT, predict())),
    Check("flood of ListModels", 5, _called_again(LIST_MODELS, b"")),
    Check("flood of ListRuns", 5, _called_again(LIST_RUNS, b"")),
    Check("flood of GetNodeShapes", 5, _called_again(NODE_SHAPES, node_shapes())),
    Check("3000 connections with a call each", 5, _idle_connections(3000, True)),
    Check("6000 idle connections", 5, _idle_connections(6000, False)),
]
