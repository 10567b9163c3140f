"""Streams that send nothing: they take no thread from others, are few for each address, and end after a time."""

from __future__ import annotations

import time
from collections import Counter
from itertools import cycle

from attacks.check import Check, Scene
from attacks.frames import Ended, Wire, message
from attacks.messages import (
    DOWNLOAD,
    EVALUATE,
    LIST_SERVICES,
    PREDICT,
    PREDICT_STREAM,
    REFLECTION,
    REFLECTION_ALPHA,
    TRAIN,
    UPLOAD_DATASET,
    WATCH,
    chunk_message,
    dataset_declaration,
    download,
    in_stream,
    predict,
    spec_message,
    training,
)
from attacks.server import HOST
from attacks.watches import NO_PEER
from layerserve.calls import methods
from layerserve.v1 import training_pb2 as pb

#: Streams on one connection.
STREAMS = 100
#: How often a training run is waited for, on a busy machine, in seconds.
RUN_SECONDS = 120.0


def idle(address: tuple[str, int], path: str, count: int, seconds: float, first: bytes = b"") -> Counter[str]:
    """Streams on which at most a first message is sent, and how they have ended after the time."""
    seen: Counter[str] = Counter()
    wires = [Wire(address) for _ in range((count + STREAMS - 1) // STREAMS)]
    numbers = [(wire, wire.open(path)) for wire, _ in zip(cycle(wires), range(count), strict=False)]
    if first:
        for wire, number in numbers:
            wire.give(number, message(first), end=False)
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            for wire in wires:
                wire.read(min(left, 0.1))
    except Ended as error:
        seen[f"ended: {error}"] += 1
    for wire, number in numbers:
        answer = wire.answers[number]
        seen[f"{answer.end or 'open'} {answer.headers.get('layerserve-reason', '')}".strip()] += 1
    for wire in wires:
        wire.close()
    return seen


def use_streams(address: tuple[str, int], whole_run: bool) -> Counter[str]:
    """What an honest caller does with streams; a run to its end, or until it is queued."""
    seen: Counter[str] = Counter()
    with Wire(address, source=HOST) as wire:
        for path, request in (
            (REFLECTION, LIST_SERVICES),
            (REFLECTION_ALPHA, LIST_SERVICES),
            (DOWNLOAD, download()),
            (PREDICT_STREAM, in_stream(predict())),
        ):
            answer = wire.call(path, message(request), seconds=30)
            seen[f"{path.rpartition('/')[2]} {answer.status or 'silent'}"] += 1
        seen[f"Train {train(wire, RUN_SECONDS if whole_run else 0.0)}"] += 1
    return seen


def train(wire: Wire, seconds: float, rows: int = 32) -> str:
    """Trains a run on a connection: how it ended, or "queued" without time for more."""
    number = wire.open(TRAIN)
    wire.give(number, message(spec_message(training(rows))), end=False)
    wire.give(number, message(chunk_message(0, bytes(4 * 64 * rows))), end=False)
    wire.give(number, message(chunk_message(1, bytes(4 * 10 * rows))))
    answer = wire.answers[number]
    until = time.monotonic() + max(seconds, 30.0)
    while not answer.end and time.monotonic() < until:
        wire.read(0.5)
        kinds = [event.WhichOneof("kind") for event in events(answer.data)]
        if "finished" in kinds:
            return "finished"
        if "queued" in kinds and not seconds:
            wire.reset(number)
            return "queued"
    return answer.status or "silent"


def events(data: bytes) -> list[pb.TrainEvent]:
    """The events in what came on a stream of Train, as far as they are whole."""
    found = []
    while len(data) >= 5 and len(data) >= 5 + (size := int.from_bytes(data[1:5], "big")):
        found.append(pb.TrainResponse.FromString(data[5 : 5 + size]).event)
        data = data[5 + size :]
    return found


def _idle_reflection(scene: Scene) -> Counter[str]:
    crowd = scene.pool.submit(idle, scene.server.address, REFLECTION, 1000, scene.seconds + 10)
    time.sleep(2)
    used = scene.attack(use_streams, False)
    # The method that is attacked is full, others aren't.
    scene.expect(used.pop("ServerReflectionInfo 8", 0) == 1, f"reflection beside 768 streams of it: {dict(used)}")
    used["ServerReflectionInfo 0"] += 1
    _expect_used(scene, used, "queued")
    seen = crowd.result()
    scene.only(seen, "open", "status 8 busy")
    scene.expect(seen["open"] >= 500, f"with room for 768 streams of a method: {dict(seen)}")
    return seen


def _idle_reflection_of_one_address(scene: Scene) -> Counter[str]:
    seen = scene.attack(idle, REFLECTION, 1000, scene.seconds)
    scene.only(seen, "open", "status 8 busy")
    scene.expect(seen["open"] <= 128, f"streams of one address, of which 128 may be open: {dict(seen)}")
    return seen


def _silent_train(first: bytes, whole_run: bool) -> object:
    def run(scene: Scene) -> Counter[str]:
        crowd = scene.pool.submit(idle, scene.server.address, TRAIN, 100, scene.seconds + 20, first)
        others = scene.pool.submit(idle, scene.server.address, EVALUATE, 20, scene.seconds + 20)
        time.sleep(2)
        used = scene.attack(use_streams, whole_run)
        _expect_used(scene, used, "finished" if whole_run else "queued")
        seen = crowd.result() + others.result()
        scene.only(seen, "open", "status 8 busy")
        return seen

    return run


def _silent_predict_stream(scene: Scene) -> Counter[str]:
    crowd = scene.pool.submit(idle, scene.server.address, PREDICT_STREAM, 120, scene.seconds + 5)
    time.sleep(1)
    _expect_used(scene, scene.attack(use_streams, False), "queued")
    seen = crowd.result()
    scene.only(seen, "open")
    return seen


def _ended_when_silent(scene: Scene) -> Counter[str]:
    streams = [method.path for method in methods.METHODS.values() if method.streams_requests]
    kinds = [(path, b"") for path in (*streams, REFLECTION, WATCH, PREDICT)]
    kinds += [(TRAIN, spec_message(training())), (UPLOAD_DATASET, dataset_declaration())]
    futures = [scene.pool.submit(idle, scene.server.address, path, 10, 12.0, first) for path, first in kinds]
    seen: Counter[str] = Counter()
    for (path, first), future in zip(kinds, futures, strict=True):
        ends = future.result()
        seen += ends
        what = f"{path.rpartition('/')[2]}{' with a first message' if first else ''}"
        scene.expect(ends["status 10 idle"] == 10, f"10 silent {what}: {dict(ends)}, expected ABORTED idle")
    return seen


def _expect_used(scene: Scene, used: Counter[str], run: str) -> None:
    expected = {"ServerReflectionInfo 0": 2, "DownloadModel 0": 1, "PredictStream 0": 1, f"Train {run}": 1}
    scene.expect(used == expected, f"an honest caller of streams saw {dict(used)}, expected {expected}")


CHECKS = [
    Check(
        "1000 idle reflection streams of one address", 3, _idle_reflection_of_one_address, beyond={"native": NO_PEER}
    ),
    Check("100 Train calls that send nothing, beside a run", 3, _silent_train(b"", True)),
    Check("100 Train calls that send only a spec", 3, _silent_train(spec_message(training()), False)),
    Check("120 PredictStreams that send nothing", 3, _silent_predict_stream),
    Check("1000 idle reflection streams", 3, _idle_reflection, settings={"max_peer_streams": 1000}),
    Check(
        "streams and requests that send nothing are ended",
        3,
        _ended_when_silent,
        settings={"stream_idle_seconds": 2.0, "handshake_seconds": 2.0},
        beyond={"native": "it gives a unary call on when its message is whole, and has no limit of time for that"},
    ),
]
