"""Floods of frames: what one connection does must not reach another."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable

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
from attacks.messages import (
    PREDICT,
    PREDICT_STREAM,
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


def _flooded(kind: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(flood, kind, scene.seconds, times=2)
        scene.expect(seen["frames"], f"{dict(seen)}")
        return seen

    return run


#: Times so short that ends are seen.
IMPATIENT = {"handshake_seconds": 2.0, "stalled_seconds": 3.0}

CHECKS = [Check(f"flood of {kind}", 5, _flooded(kind), settings=IMPATIENT) for kind in FLOODS]
