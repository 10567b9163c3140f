"""What callers make a server keep: messages that don't end, bombs, replies that nobody takes."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from layerserve.v1.prediction_pb2 import PredictRequest
from layerserve.v1.tensor_pb2 import DATA_TYPE_FLOAT32, ModelSpec, Tensor
from layerserve.values.tensors import encode
from layerserve.values.wire import tag, varint

from attacks.check import Check, Scene
from attacks.frames import INITIAL_WINDOW_SIZE, Ended, Wire, message
from attacks.messages import (
    DOWNLOAD,
    MODEL,
    PREDICT,
    PREDICT_STREAM,
    ROW,
    TRAIN,
    download,
    in_stream,
    padded,
    predict_wide,
)

MIB = 1 << 20
MAX_MESSAGE = 32 * MIB
BUDGET = 128 * MIB
#: Limits small enough to be seen.
SETTINGS = {
    "max_message_bytes": MAX_MESSAGE,
    "max_buffered_bytes": BUDGET,
    "stalled_seconds": 4.0,
    "stream_idle_seconds": 6.0,
    "max_peer_streams": 512,
}
#: Growth that is allowed with these: the budget, what comes between two looks at the connections, and what Python and
#: the libraries need beside it. Without limits each of these attacks takes more than a gigabyte.
GROWTH = 450.0
#: Calls of a connection at once, and the number of empty tensors that a request may have.
AT_ONCE = 4
MAX_TENSORS = 65_000
#: A spec of a run with half a million empty arrays.
ARRAYS = b"\x0a\x80\x80\x40" + b"\x12\x00" * (MIB // 2)
#: A tensor whose shape has almost as many integers as a request may have: they take 16 MiB.
_ONES = b"\x01" * (2 * MIB - 4096)
_SHAPE = tag(Tensor.SHAPE_FIELD_NUMBER) + varint(len(_ONES)) + _ONES
INTEGERS = tag(PredictRequest.INPUTS_FIELD_NUMBER) + varint(len(_SHAPE)) + _SHAPE
#: Rows of `wide` whose answer takes 4 MiB.
ROWS = 16


def unfinished(address: tuple[str, int], path: str, size: int, count: int, seconds: float) -> Counter[str]:
    """Messages on connections of their own that all come but for the last byte."""
    seen: Counter[str] = Counter()
    wires: list[tuple[Wire, int]] = []
    data = message(bytes(size - 1), length=size)
    until = time.monotonic() + seconds
    for _ in range(count):
        wire = Wire(address)
        try:
            number = wire.open(path)
            sent = wire.give(number, data, end=False, seconds=3.0)
            seen["whole but a byte" if sent == len(data) else "stopped"] += 1
            wires.append((wire, number))
        except (Ended, OSError) as error:
            seen[f"ended: {error}"] += 1
    time.sleep(max(0.0, until - time.monotonic()))
    for wire, number in wires:
        try:
            answer = wire.wait(number, 0.1)
            seen[f"{answer.end or 'open'} {answer.headers.get('layerserve-reason', '')}".strip()] += 1
        except Ended as error:
            seen[f"ended: {error}"] += 1
        wire.close()
    return seen


def unfinished_calls(address: tuple[str, int], size: int, count: int, seconds: float) -> Counter[str]:
    """The same on one connection."""
    seen: Counter[str] = Counter()
    data = message(bytes(size - 1), length=size)
    with Wire(address) as wire:
        try:
            for _ in range(count):
                sent = wire.give(wire.open(PREDICT), data, end=False, seconds=1.0)
                seen["whole but a byte" if sent == len(data) else "stopped"] += 1
            wire.ended(seconds)
        except Ended as error:
            seen[f"ended: {error}"] += 1
    return seen


@lru_cache(4)
def bomb(size: int) -> bytes:
    """A request that is right when it is decompressed: zeros are the smallest."""
    request = PredictRequest(model=ModelSpec(name=MODEL), inputs=[encode(ROW)])
    request.id = "\0" * size
    return gzip.compress(request.SerializeToString(), 9)


def bombs(address: tuple[str, int], path: str, size: int, count: int) -> Counter[str]:
    """Messages of `size` bytes that are a thousandth of that on the wire."""
    seen: Counter[str] = Counter()
    # Before it connects, as a connection that says nothing for long is ended.
    data = message(bomb(size), compressed=True)
    for _ in range(count):
        try:
            with Wire(address) as wire:
                answer = wire.call(path, data, (b"grpc-encoding", b"gzip"), seconds=30)
                seen[f"status {answer.status or 'none'} {answer.headers.get('layerserve-reason', '')}".strip()] += 1
        except Ended as error:
            seen[f"ended: {error}"] += 1
    return seen


def lies(address: tuple[str, int], path: str, count: int) -> Counter[str]:
    """Prefixes that give lengths which the messages don't have, held open."""
    seen: Counter[str] = Counter()
    wires = []
    for length in (2**32 - 1, 2**31, 2**31 - 1, MAX_MESSAGE + 1, MAX_MESSAGE, 1):
        for _ in range(count):
            wire = Wire(address)
            number = wire.open(path)
            wire.give(number, message(bytes(1000), length=length), end=False)
            wires.append((wire, number, length))
    for wire, number, length in wires:
        size = "too large" if length > MAX_MESSAGE else "right"
        try:
            answer = wire.wait(number, 2.0 if length > MAX_MESSAGE else 0.01)
            seen[f"{size}: {answer.status or 'open'}"] += 1
        except Ended as error:
            seen[f"{size}: ended: {error}"] += 1
        wire.close()
    return seen


def unread(
    address: tuple[str, int], path: str, request: bytes, connections: int, calls: int, seconds: float, window: int
) -> Counter[str]:
    """Calls whose answers nobody takes: the connection isn't read (`window` -1), or its streams have that window."""
    seen: Counter[str] = Counter()
    wires = []
    for _ in range(connections):
        settings = None if window < 0 else {INITIAL_WINDOW_SIZE: window}
        # Without a window of its own a stream may send much, and what isn't read stays at the server.
        settings = settings or {INITIAL_WINDOW_SIZE: 2**31 - 1}
        wire = Wire(address, settings=settings, receive_buffer=4096 if window < 0 else 0)
        try:
            for _ in range(calls):
                number = wire.open(path)
                wire.give(number, message(request), seconds=1.0)
                seen["asked"] += 1
            wires.append(wire)
        except Ended as error:
            seen[f"ended: {error}"] += 1
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if window >= 0:
            for wire in tuple(wires):
                wire.takes = False
                try:
                    wire.read(0.01)
                except Ended as error:
                    seen[f"ended: {error}"] += 1
                    wires.remove(wire)
        time.sleep(0.1)
    for wire in wires:
        for answer in wire.answers.values():
            seen[f"{answer.end or 'open'} {answer.headers.get('layerserve-reason', '')}".strip()] += 1
        wire.close()
    return seen


def costly(address: tuple[str, int], rounds: int) -> Counter[str]:
    """Small requests that ask for much; each must be refused as wrong."""
    seen: Counter[str] = Counter()
    for _ in range(rounds):
        for request in COSTLY:
            with Wire(address) as wire:
                answer = wire.call(PREDICT, message(request.SerializeToString()), seconds=30)
                seen[f"status {answer.status} {answer.headers.get('layerserve-reason', '')}"] += 1
    return seen


def elements(address: tuple[str, int], path: str, field: bytes, count: int, rounds: int) -> Counter[str]:
    """Requests of a field that is empty, `count` times, several at once; each must be refused as wrong."""
    seen: Counter[str] = Counter()
    data = message(field * count)
    for _ in range(rounds):
        try:
            with Wire(address) as wire:
                numbers = []
                for _ in range(AT_ONCE):
                    numbers.append(wire.open(path))
                    wire.give(numbers[-1], data)
                for number in numbers:
                    answer = wire.wait(number, 30)
                    seen[f"status {answer.status} {answer.headers.get('layerserve-reason', '')}"] += 1
        except Ended:
            seen["ended"] += 1
    return seen


def _request(*tensors: Tensor, outputs: tuple[str, ...] = ()) -> PredictRequest:
    return PredictRequest(model=ModelSpec(name=MODEL), inputs=tensors, outputs=outputs)


def _shaped(*shape: int) -> Tensor:
    return Tensor(dtype=DATA_TYPE_FLOAT32, shape=shape, data=bytes(256))


_NAME = "dense"
COSTLY = (
    _request(encode(ROW), outputs=(_NAME,) * 10_000),
    _request(encode(ROW), outputs=(f"{_NAME}:0",) * 100 + (_NAME,) * 100),
    _request(encode(ROW), outputs=tuple(f"no{number}" for number in range(100_000))),
    _request(encode(ROW), outputs=("x" * MIB,)),
    _request(*[encode(ROW)] * 10_000),
    _request(_shaped(2**40, 64)),
    _request(_shaped(2**62, 2**62)),
    _request(_shaped(-1, 64)),
    _request(_shaped(1, *[1] * 100_000, 64)),
    _request(Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2**31, 0), data=b"")),
)


def _unfinished(path: str, size: int, count: int) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        return scene.attack(unfinished, path, size, count // 4, scene.seconds, times=4)

    return run


def _unfinished_calls(scene: Scene) -> Counter[str]:
    return scene.attack(unfinished_calls, MIB, 500, scene.seconds, times=2)


def _bombs(path: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(bombs, path, 100 * MIB, 3, times=2)
        scene.only(seen, "status 8")
        return seen

    return run


def _lies(path: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(lies, path, 30)
        scene.only(seen, "too large: 8", "right")
        return seen

    return run


def _unread(path: str, request: bytes, connections: int, calls: int, window: int) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        # So long that those who take nothing are ended.
        seconds = scene.seconds + float(str(scene.server.given["stalled_seconds"])) + 1
        seen = scene.attack(unread, path, request, connections, calls, seconds, window, times=2)
        scene.expect(seen["asked"], f"{dict(seen)}")
        return seen

    return run


def _elements(path: str, field: bytes, count: int) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen = scene.attack(elements, path, field, count, 2, times=4)
        scene.only(seen, "status 3 ", "status 8 ", "ended")
        return seen

    return run


def _costly(scene: Scene) -> Counter[str]:
    seen = scene.attack(costly, 3)
    scene.only(seen, "status 3 ")
    return seen


KEEPS = "its front keeps up to a megabyte of each stream that its caller doesn't read, where it can't be counted"
BUFFERS = "it takes a message whole, and decompresses it, before its size can be seen"


#: What honest callers may see while all memory for callers is in use: theirs is counted like anyone's.
FULL = ("RESOURCE_EXHAUSTED busy",)


def _check(name: str, run: Callable[[Scene], Counter[str]], beyond: dict[str, str] | None = None) -> Check:
    return Check(name, 4, run, SETTINGS, GROWTH, FULL, beyond or {})


CHECKS = [
    _check("40 messages of 31 MiB that never end", _unfinished(PREDICT, 31 * MIB, 40)),
    _check("40 messages of 31 MiB on PredictStream", _unfinished(PREDICT_STREAM, 31 * MIB, 40)),
    _check("40 messages of 31 MiB on Train", _unfinished(TRAIN, 31 * MIB, 40)),
    _check("1000 messages of 1 MiB on two connections, each a byte short", _unfinished_calls),
    _check("gzip bombs on Predict", _bombs(PREDICT), {"native": BUFFERS}),
    _check("gzip bombs on PredictStream", _bombs(PREDICT_STREAM)),
    _check("prefixes that lie on Predict", _lies(PREDICT), {"native": BUFFERS}),
    _check("prefixes that lie on PredictStream", _lies(PREDICT_STREAM)),
    _check("30 connections that read nothing of 600 answers", _unread(PREDICT, predict_wide(ROWS), 15, 20, -1)),
    _check("600 answers to streams without a window", _unread(PREDICT, predict_wide(ROWS), 15, 20, 0)),
    _check("600 answers to streams that take a byte", _unread(PREDICT, predict_wide(ROWS), 15, 20, 1)),
    _check(
        "answers on PredictStreams, never read",
        _unread(PREDICT_STREAM, in_stream(predict_wide(ROWS)), 15, 10, -1),
        {"native": KEEPS},
    ),
    _check(
        "answers on PredictStreams without a window",
        _unread(PREDICT_STREAM, in_stream(predict_wide(ROWS)), 15, 10, 0),
        {"native": KEEPS},
    ),
    _check("300 downloads, never read", _unread(DOWNLOAD, download(), 15, 10, -1)),
    _check("300 downloads without a window", _unread(DOWNLOAD, download(), 15, 10, 0)),
    _check("small requests that ask for much", _costly),
    _check("millions of empty tensors", _elements(PREDICT, b"\x12\x00", 13 * MIB)),
    _check("the most empty tensors", _elements(PREDICT, b"\x12\x00", MAX_TENSORS)),
    _check("half a million empty arrays of a run", _elements(TRAIN, ARRAYS, 1)),
    _check("2 million integers as fields", _elements(PREDICT, INTEGERS, 1)),
    _check("large requests that are right", _unread(PREDICT, padded(MIB), 15, 20, 65_535)),
]
