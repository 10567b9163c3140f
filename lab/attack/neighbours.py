"""Slow and idle connections, and calls that are valid but many: what one connection does must not reach another."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc
from attacks.check import Check, Scene
from attacks.floods import IMPATIENT
from attacks.frames import Ended, Wire, message
from attacks.honest import OWN
from attacks.memory import BUDGET, GROWTH
from attacks.messages import CHECK, LIST_MODELS, LIST_RUNS, NODE_SHAPES, PREDICT, node_shapes, predict


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


RESETS = "h2 counts calls that end early as resets, and ends a connection with many of them"

CHECKS = [
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
