"""Attacks on the port for HTTP, with an honest caller over gRPC beside."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable

from attacks.check import Check, Scene

HEAD = b"POST /v1/models/dense:predict HTTP/1.1\r\nhost: a\r\n"
#: Time between two bytes of a slow sender, in seconds.
SLOW_SECONDS = 0.2
#: Size of a hostile body, in bytes.
BODY_BYTES = 8_000_000


def slow(address: tuple[str, int], begin: bytes, drop: bytes, count: int, seconds: float) -> Counter[str]:
    """Connections that begin a request and go on with a few bytes now and then, for ever."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        open_now: list[socket.socket] = []
        while time.monotonic() < until:
            while len(open_now) < count:
                try:
                    one = socket.create_connection(address, timeout=5)
                    one.sendall(begin)
                except OSError:
                    seen["not connected"] += 1
                    break
                stack.callback(one.close)
                open_now.append(one)
                seen["connections"] += 1
            for one in list(open_now):
                try:
                    one.sendall(drop)
                except OSError:
                    seen["ended"] += 1
                    open_now.remove(one)
            time.sleep(SLOW_SECONDS)
    return seen


def hostile(address: tuple[str, int], unit: bytes, seconds: float) -> Counter[str]:
    """Large bodies of JSON that is much work, one after the other; their statuses."""
    body = b'{"instances":[' + unit * (BODY_BYTES // len(unit)) + b"0]}"
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with socket.create_connection(address, timeout=90) as one:
                one.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
                seen[one.recv(12).partition(b" ")[2].decode()] += 1
        except OSError:
            seen["ended"] += 1
    return seen


def heads(address: tuple[str, int], size: int, seconds: float) -> Counter[str]:
    """Sends requests with new headers of about this size, one after the other. Returns their statuses."""
    seen: Counter[str] = Counter()
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            with socket.create_connection(address, timeout=30) as one:
                while time.monotonic() < until:
                    number += 1
                    filler = b"x-filler: %d-%d-" % (id(seen), number) + b"a" * (size - 200)
                    one.sendall(HEAD + filler + b"\r\ncontent-length: 1\r\n\r\n{")
                    status = one.recv(4096)[9:12].decode()
                    seen[status or "ended"] += 1
                    if not status:
                        break
        except OSError:
            seen["ended"] += 1
    return seen


def _new_heads(size: int) -> Callable[[Scene], Counter[str]]:
    attack = _at_http(heads, size, times=2)

    def run(scene: Scene) -> Counter[str]:
        seen = attack(scene)
        scene.only(seen, "400", "429", "503", "ended")
        return seen

    return run


def _at_http(
    function: Callable[..., Counter[str]], *arguments: object, times: int = 1
) -> Callable[[Scene], Counter[str]]:
    """Attacks the port for HTTP in processes of their own."""

    def run(scene: Scene) -> Counter[str]:
        address = (scene.server.address[0], scene.server.rest_port)
        futures = [scene.pool.submit(function, address, *arguments, scene.seconds) for _ in range(times)]
        return sum((future.result() for future in futures), Counter())

    return run


def _hostile(unit: bytes) -> Callable[[Scene], Counter[str]]:
    attack = _at_http(hostile, unit, times=2)

    def run(scene: Scene) -> Counter[str]:
        seen = attack(scene)
        scene.only(seen, "400", "429", "503")
        return seen

    return run


#: The times so short that a check sees their ends.
SETTINGS = {"http_port": 0, "handshake_seconds": 2.0, "stream_idle_seconds": 3.0, "max_peer_connections": 512}
#: The process that reads long bodies, and its children.
READERS = 250.0

CHECKS = [
    Check(
        "HTTP: 400 connections whose headers never end", 5, _at_http(slow, HEAD, b"a: b\r\n", 400), settings=SETTINGS
    ),
    Check(
        "HTTP: 400 connections whose bodies never end",
        5,
        # All but the first with headers that are known.
        _at_http(slow, HEAD + b"content-length: 1000000\r\n\r\n", b"0", 400),
        settings=SETTINGS,
    ),
    Check("HTTP: 2000 connections that send nothing", 5, _at_http(slow, b"", b"", 1000, times=2), settings=SETTINGS),
    Check("HTTP: short headers that always differ", 5, _new_heads(300), settings=SETTINGS),
    Check("HTTP: long headers that always differ", 5, _new_heads(2000), settings=SETTINGS),
    Check("HTTP: empty objects", 5, _hostile(b"{},"), settings=SETTINGS, memory=READERS),
    Check("HTTP: rows of one zero", 5, _hostile(b"[0],"), settings=SETTINGS, memory=READERS),
    Check("HTTP: nested lists", 5, _hostile(b"["), settings=SETTINGS, memory=READERS),
]
