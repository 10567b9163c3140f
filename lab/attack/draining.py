"""The end of a server under load: answers, or an UNAVAILABLE that says to try again, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
from attacks.check import Check, Scene
from attacks.frames import Ended, Wire, message
from attacks.honest import OWN
from attacks.messages import (
    CHECK,
    MODEL,
    PREDICT,
    PREDICT_STREAM,
    ROW,
    TRAIN,
    WATCH,
    in_stream,
    predict,
    predict_wide,
    spec_message,
    training,
)
from attacks.server import Server
from grpc_health.v1 import health_pb2
from layerserve import Client, LayerserveError
from layerserve.errors import REASON_KEY

#: Callers of each kind.
CALLERS = 4
#: Time that a server goes on to answer after SIGTERM, in these checks.
DRAIN_SECONDS = 2.0
#: Time that callers go on after an end, in seconds.
AFTER_SECONDS = 1.0

#: What callers may see: UNAVAILABLE is what clients repeat, whatever its reason.
ALLOWED = ("OK", "UNAVAILABLE")
Ends = tuple[Counter[str], float]


def blocking(address: tuple[str, int], seconds: float) -> Ends:
    """Callers with grpcio's blocking stubs; what they saw, and when the first of them was refused."""

    def work(note: Callable[[str], None], over: Callable[[], bool]) -> None:
        with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
            for number in _numbers(over):
                try:
                    channel.unary_unary(PREDICT)(predict_wide(4) if number % 2 else predict(), timeout=10)
                    note("OK")
                except grpc.RpcError as error:
                    note(_status(error))

    return _together(work, seconds)


def asynchronous(address: tuple[str, int], seconds: float) -> Ends:
    """Callers with grpc.aio, each with several calls under way."""

    def work(note: Callable[[str], None], over: Callable[[], bool]) -> None:
        async def call_on() -> None:
            async with grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:

                async def one() -> None:
                    for _ in _numbers(over):
                        try:
                            await channel.unary_unary(PREDICT)(predict(), timeout=10)
                            note("OK")
                        except grpc.RpcError as error:
                            note(_status(error))
                            await asyncio.sleep(0.01)

                await asyncio.gather(*[one() for _ in range(4)])

        asyncio.run(call_on())

    return _together(work, seconds, 1)


def with_the_client(address: tuple[str, int], seconds: float) -> Ends:
    """Callers with the SDK, which repeats what is UNAVAILABLE for a while."""

    def work(note: Callable[[str], None], over: Callable[[], bool]) -> None:
        with Client(f"{address[0]}:{address[1]}", timeout=10) as client:
            for _ in _numbers(over):
                try:
                    client.predict(MODEL, ROW)
                    note("OK")
                except LayerserveError as error:
                    note(f"{error.status.name} {error.code}")

    return _together(work, seconds)


def streaming(address: tuple[str, int], seconds: float) -> Ends:
    """PredictStreams that send one request after another."""

    def work(note: Callable[[str], None], over: Callable[[], bool]) -> None:
        with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
            for _ in _numbers(over):
                answered = threading.Semaphore(4)

                def requests(answered: threading.Semaphore = answered) -> Iterator[bytes]:
                    while not over() and answered.acquire(timeout=1):
                        yield in_stream(predict())

                try:
                    for _ in channel.stream_stream(PREDICT_STREAM)(requests(), timeout=seconds + 10):
                        note("OK")
                        answered.release()
                except grpc.RpcError as error:
                    note(_status(error))

    return _together(work, seconds)


def held(address: tuple[str, int], seconds: float) -> Counter[str]:
    """A watch and an upload that are open at the end: how each ends."""
    seen: Counter[str] = Counter()
    with Wire(address) as wire:
        streams = {}
        for path, first in ((WATCH, b""), (TRAIN, spec_message(training()))):
            streams[path] = wire.open(path)
            wire.give(streams[path], message(first), end=False)
        try:
            wire.ended(seconds)
        except Ended as error:
            seen[f"ended: {error}"] += 1
        for path, number in streams.items():
            answer = wire.answers[number]
            seen[f"{path.rpartition('/')[2]} {answer.end} {answer.headers.get('layerserve-reason', '')}"] += 1
    return seen


def _numbers(over: Callable[[], bool]) -> Iterator[int]:
    number = 0
    while not over():
        yield number
        number += 1


def _status(error: grpc.RpcError) -> str:
    metadata = dict(error.trailing_metadata() or ())
    return f"{error.code().name} {metadata.get(REASON_KEY, '')}"


def _together(
    work: Callable[[Callable[[str], None], Callable[[], bool]], None], seconds: float, callers: int = CALLERS
) -> Ends:
    """Runs callers in threads until the time is over, or a second after the server has gone."""
    seen: Counter[str] = Counter()
    refused: list[float] = []
    until = time.monotonic() + seconds

    def note(status: str) -> None:
        seen[status] += 1
        if status != "OK":
            refused.append(time.monotonic())

    def over() -> bool:
        return time.monotonic() > until or (bool(refused) and time.monotonic() > refused[0] + AFTER_SECONDS)

    threads = [threading.Thread(target=work, args=(note, over)) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, min(refused, default=float("inf"))


def _drain(kinds: tuple[Callable[[tuple[str, int], float], Ends], ...]) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        server = scene.start(drain_seconds=DRAIN_SECONDS)
        futures = [scene.pool.submit(kind, server.address, 60.0) for kind in kinds]
        open_streams = scene.pool.submit(held, server.address, 60.0) if len(kinds) == 1 else None
        _wait_for_calls(server, 50)
        scene.expect(server.http("/readyz") == 200, "/readyz before the end")
        began = time.monotonic()
        server.terminate()
        _watch_the_drain(scene, server, began)
        status = server.end()
        scene.expect(status == 0, f"exit status {status}, expected 0 in time")
        seen: Counter[str] = Counter()
        for future in futures:
            counts, refused = future.result()
            seen += counts
            scene.expect(
                refused > began + DRAIN_SECONDS * 0.9,
                f"a call was refused {refused - began:.2f} s after SIGTERM, expected {DRAIN_SECONDS} s of answers",
            )
        scene.only(seen, *ALLOWED)
        if open_streams is not None:
            ends = open_streams.result()
            expected = Counter({"Watch status 14 unavailable": 1, "Train status 14 unavailable": 1})
            scene.expect(ends == expected, f"streams that were held: {dict(ends)}, expected UNAVAILABLE")
        log = server.log.read_text()
        for step in ("draining", "stopping", "stopped"):
            scene.expect(step in log, f"the log doesn't say '{step}'")
        return seen

    return run


def _wait_for_calls(server: Server, count: int) -> None:
    """Waits until so many calls have been answered."""
    until = time.monotonic() + 60
    while server.calls() < count and time.monotonic() < until:
        time.sleep(0.05)


def _watch_the_drain(scene: Scene, server: Server, began: float) -> None:
    """While it drains: health says NOT_SERVING, /readyz 503, /healthz 200."""
    health, ready, lives = 0, 0, 0
    with grpc.insecure_channel(server.target, options=OWN) as channel:
        while time.monotonic() < began + DRAIN_SECONDS * 0.8:
            reply = health_pb2.HealthCheckResponse.FromString(channel.unary_unary(CHECK)(b"", timeout=10))
            health, ready, lives = reply.status, server.http("/readyz"), server.http("/healthz")
            time.sleep(0.1)
    expected = (health_pb2.HealthCheckResponse.NOT_SERVING, 503, 200)
    scene.expect((health, ready, lives) == expected, f"health, /readyz, /healthz in the drain: {health, ready, lives}")


def _second_signal(scene: Scene) -> Counter[str]:
    """A second SIGTERM ends it at once, also under load and with streams that are held."""
    server = scene.start(drain_seconds=60, grace_seconds=60)
    calling = scene.pool.submit(blocking, server.address, 60.0)
    open_streams = scene.pool.submit(held, server.address, 60.0)
    _wait_for_calls(server, 50)
    server.terminate()
    time.sleep(1)
    began = time.monotonic()
    server.terminate()
    status = server.end()
    seconds = time.monotonic() - began
    scene.expect(status == 0, f"exit status {status}, expected 0")
    scene.expect(seconds < 20, f"it took {seconds:.1f} s after the second signal")
    seen = calling.result()[0]
    scene.only(seen, *ALLOWED)
    open_streams.result()
    return seen


CHECKS = [
    Check("SIGTERM under 4 blocking callers, a watch and an upload", 2, _drain((blocking,))),
    Check(
        "SIGTERM under 16 callers: grpcio, grpc.aio, the SDK, PredictStream",
        2,
        _drain((blocking, asynchronous, with_the_client, streaming)),
    ),
    Check("a second SIGTERM", 2, _second_signal),
]
