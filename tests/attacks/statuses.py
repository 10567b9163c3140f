"""What is wrong with a call is said in the status that means it: never UNKNOWN, and INTERNAL only with an id."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from attacks.check import Check, Scene
from attacks.frames import DATA, END_HEADERS, HEADERS, Answer, Ended, Wire, call_headers, frame, header_block, message
from attacks.messages import (
    CHECK,
    LIST_MODELS,
    LIST_SERVICES,
    PREDICT,
    PREDICT_STREAM,
    REFLECTION,
    REFLECTION_ALPHA,
    TRAIN,
    predict,
)

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED = "0", "3", "4", "5", "8"
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = "12", "13", "14"
#: HTTP statuses and resets for what is no call of gRPC, as its protocol has them.
NOTHING = "none"
NO_CALL = ("http 4", "reset 1", "reset 2", "ended")

Ask = Callable[[Wire], Answer]


@dataclass(frozen=True)
class Case:
    """A call, and how it may end: statuses, or beginnings of other ends."""

    name: str
    ask: Ask
    allowed: tuple[str, ...]
    #: Whether the server itself answers, and so with details.
    details: bool = False


def _call(path: bytes | str, data: bytes = predict(), *more: tuple[bytes, bytes]) -> Ask:
    return lambda wire: wire.call(path, message(data), *more)


def _raw(path: bytes | str, *messages: bytes) -> Ask:
    """Any number of messages, or what isn't one."""

    def ask(wire: Wire) -> Answer:
        number = wire.open(path, end=not messages)
        if messages:
            wire.give(number, b"".join(messages))
        return wire.wait(number, 10)

    return ask


def _headers(*headers: tuple[bytes, bytes]) -> Ask:
    def ask(wire: Wire) -> Answer:
        number = wire.open(b"", headers=headers)
        wire.give(number, message(predict()))
        return wire.wait(number, 5)

    return ask


def _without(name: bytes, replaced: bytes | None = None) -> Ask:
    headers = [(key, value) for key, value in call_headers(PREDICT.encode()) if key != name]
    if replaced is not None:
        headers.insert(0 if name.startswith(b":") else len(headers), (name, replaced))
    return _headers(*headers)


def _data_after_end(wire: Wire) -> Answer:
    number = wire.open(CHECK)
    wire.give(number, message(b""))
    wire.send(frame(DATA, 1, number, message(b"")))
    return wire.wait(number, 5)


def _data_first(wire: Wire) -> Answer:
    wire.answers[1] = Answer()
    wire.send(frame(DATA, 1, 1, message(predict())))
    return wire.wait(1, 1)


def _stream_twice(wire: Wire) -> Answer:
    number = wire.open(CHECK)
    wire.send(frame(HEADERS, END_HEADERS, number, header_block(call_headers(CHECK.encode()))))
    return wire.wait(number, 1)


def _not_gzip(wire: Wire) -> Answer:
    return wire.call(PREDICT, message(b"no gzip", compressed=True), (b"grpc-encoding", b"gzip"))


def _service(name: str) -> bytes:
    request: bytes = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return request


#: What the libraries themselves say of a call that is broken.
REFUSED = (UNIMPLEMENTED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED)
#: The libraries call what they can't read of a call's frame INTERNAL, before a handler sees it.
BROKEN = (*REFUSED, INTERNAL, *NO_CALL)

CASES = (
    Case("Predict", _call(PREDICT), (OK,)),
    Case("a message that is none", _call(PREDICT, b"\xff" * 20), (INVALID_ARGUMENT,), details=True),
    Case("an empty message", _call(PREDICT, b""), (INVALID_ARGUMENT, NOT_FOUND), details=True),
    Case("ListModels with a message that is none", _call(LIST_MODELS, b"\xff"), (INVALID_ARGUMENT,), details=True),
    Case("Check with a message that is none", _call(CHECK, b"\xff"), (INVALID_ARGUMENT,), details=True),
    Case("Train with a message that is none", _call(TRAIN, b"\xff"), (INVALID_ARGUMENT,), details=True),
    Case("Train without a spec", _call(TRAIN, b""), (INVALID_ARGUMENT,), details=True),
    Case("PredictStream with a message that is none", _call(PREDICT_STREAM, b"\xff"), (INVALID_ARGUMENT,)),
    Case("reflection with a message that is none", _call(REFLECTION, b"\xff"), (INVALID_ARGUMENT,), details=True),
    Case("no message", _raw(PREDICT), BROKEN),
    Case("no message for Check", _raw(CHECK), (UNIMPLEMENTED, INVALID_ARGUMENT)),
    Case("no message for ListModels", _raw(LIST_MODELS), (UNIMPLEMENTED, INVALID_ARGUMENT)),
    Case("two messages", _raw(PREDICT, message(predict()), message(predict())), (OK, *REFUSED)),
    Case("two messages for Check", _raw(CHECK, message(b""), message(b"")), (OK, *REFUSED)),
    Case("half a message", _raw(PREDICT, message(predict())[:-5]), BROKEN),
    Case("half a prefix", _raw(PREDICT, b"\0\0"), BROKEN),
    Case("a flag that gRPC doesn't have", _raw(PREDICT, b"\x07" + message(predict())[1:]), BROKEN),
    Case(
        "compressed without a word of how",
        _raw(PREDICT, message(predict(), compressed=True)),
        # The protocol asks for INTERNAL.
        BROKEN,
    ),
    Case("an unknown compression", _call(PREDICT, predict(), (b"grpc-encoding", b"zstd-22")), (OK, *BROKEN)),
    Case("what isn't gzip", _not_gzip, BROKEN),
    Case("an unknown method", _call("/layerserve.v1.PredictionService/Nothing"), (UNIMPLEMENTED,)),
    Case("an unknown service", _call("/nothing.v1.Nothing/Nothing"), (UNIMPLEMENTED,)),
    Case("a method without a slash", _call("layerserve.v1.PredictionService.Predict"), (UNIMPLEMENTED, *NO_CALL)),
    Case("a method of one slash", _call("/"), (UNIMPLEMENTED,)),
    Case("a method of slashes", _call("/" * 50), (UNIMPLEMENTED,)),
    Case("an empty method", _call(""), (UNIMPLEMENTED, *NO_CALL)),
    Case("a method of 10 kB", _call("/" + "a" * 10_000 + "/b"), (UNIMPLEMENTED, RESOURCE_EXHAUSTED)),
    Case("a method that isn't UTF-8", _call(b"/\xff\xfe/\x80"), (UNIMPLEMENTED, *NO_CALL)),
    Case("a method with a NUL", _call(b"/a\0b/c"), (UNIMPLEMENTED, *NO_CALL)),
    Case("a method with line ends", _call(b"/a\r\nb/c"), (UNIMPLEMENTED, *NO_CALL)),
    Case("metadata of 20 kB", _call(PREDICT, predict(), (b"x-large", b"a" * 20_000)), (RESOURCE_EXHAUSTED,)),
    # The front of the native transport takes four times as much of what it hands on.
    Case("metadata of 20 kB for Check", _call(CHECK, b"", (b"x-large", b"a" * 20_000)), (OK, RESOURCE_EXHAUSTED)),
    Case("metadata of 100 kB", _call(PREDICT, predict(), (b"x-large", b"a" * 100_000)), (RESOURCE_EXHAUSTED, *NO_CALL)),
    Case("metadata of 1 MB", _call(PREDICT, predict(), (b"x-large", b"a" * 10**6)), (RESOURCE_EXHAUSTED, *NO_CALL)),
    Case("metadata that isn't UTF-8", _call(PREDICT, predict(), (b"x-odd", b"\xff\xfe")), (OK, *REFUSED, *NO_CALL)),
    Case("the same for Check", _call(CHECK, b"", (b"x-odd", b"\xff\xfe")), (OK, *REFUSED, *NO_CALL)),
    Case("the same for ListModels", _call(LIST_MODELS, b"", (b"x-odd", b"\xff\xfe")), (OK, *REFUSED, *NO_CALL)),
    Case("the same for a stream", _call(REFLECTION, LIST_SERVICES, (b"x-odd", b"\xff\xfe")), (OK, *REFUSED, *NO_CALL)),
    Case("binary metadata that isn't base64", _call(PREDICT, predict(), (b"x-bin", b"!!")), (OK, *BROKEN)),
    Case("the same for a stream with it", _call(REFLECTION, LIST_SERVICES, (b"x-bin", b"!!")), (OK, *BROKEN)),
    Case("a peer that it isn't", _call(REFLECTION, LIST_SERVICES, (b"layerserve-peer", b"10.0.0.1")), (OK,)),
    Case("a timeout that is none", _call(PREDICT, predict(), (b"grpc-timeout", b"soon")), (OK, *BROKEN)),
    Case("a timeout of centuries", _call(PREDICT, predict(), (b"grpc-timeout", b"99999999H")), (OK,)),
    Case("a timeout of none", _call(PREDICT, predict(), (b"grpc-timeout", b"0n")), (DEADLINE_EXCEEDED, "reset 8", OK)),
    Case("GET", _without(b":method", b"GET"), (OK, UNIMPLEMENTED, INTERNAL, *NO_CALL)),
    Case("JSON", _without(b"content-type", b"application/json"), (OK, UNIMPLEMENTED, *NO_CALL)),
    Case("no content type", _without(b"content-type"), (OK, UNIMPLEMENTED, *NO_CALL)),
    Case("no path", _without(b":path"), (UNIMPLEMENTED, INTERNAL, *NO_CALL)),
    Case("no te", _without(b"te"), (OK, UNIMPLEMENTED, *NO_CALL)),
    Case("no headers", _headers(), (UNIMPLEMENTED, INTERNAL, *NO_CALL)),
    Case("data after the end", _data_after_end, (OK, *NO_CALL, "reset 5")),
    Case("data before the headers", _data_first, (NOTHING, *NO_CALL)),
    Case("a stream begun twice", _stream_twice, (NOTHING, UNAVAILABLE, *BROKEN)),
    Case("Check of a service", _call(CHECK, _service("layerserve.v1.PredictionService")), (OK,)),
    Case("Check of health itself", _call(CHECK, _service("grpc.health.v1.Health")), (OK, NOT_FOUND)),
    Case("Check of an unknown service", _call(CHECK, _service("nothing")), (NOT_FOUND,), details=True),
    Case("reflection v1", _call(REFLECTION, LIST_SERVICES), (OK,)),
    Case("reflection v1alpha", _call(REFLECTION_ALPHA, LIST_SERVICES), (OK,)),
)


def ask(address: tuple[str, int], index: int) -> Counter[str]:
    """One case, on a connection of its own: its end, and what is missing from it."""
    case = CASES[index]
    try:
        with Wire(address).settle() as wire:
            answer = case.ask(wire)
    except Ended:
        return Counter(["ended"])
    reason = answer.headers.get("layerserve-reason", "")
    seen = Counter([answer.status or "none"])
    if answer.status == INTERNAL and reason and "layerserve-correlation-id" not in answer.headers:
        seen["INTERNAL without an id"] += 1
    if case.details and not _has_details(answer):
        seen[f"no details: {answer.headers}"] += 1
    return seen


def _has_details(answer: Answer) -> bool:
    """Whether the error carries a google.rpc.Status with an ErrorInfo."""
    encoded = answer.headers.get("grpc-status-details-bin", "")
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    return any(detail.type_url.endswith("google.rpc.ErrorInfo") for detail in status.details)


def _is(end: str, allowed: str) -> bool:
    """Whether a call ended as is allowed: a status is a number, other ends may go on."""
    return end == allowed if allowed.isdigit() else end.startswith(allowed)


def _statuses(scene: Scene) -> Counter[str]:
    seen: Counter[str] = Counter()
    futures = [scene.pool.submit(ask, scene.server.address, index) for index in range(len(CASES))]
    for case, future in zip(CASES, futures, strict=True):
        ends = future.result()
        wrong = [end for end in ends if not any(map(partial(_is, end), case.allowed))]
        scene.expect(not wrong, f"{case.name}: {wrong}, expected {' or '.join(case.allowed)}")
        seen += ends
    return seen


CHECKS = [Check("calls that are wrong in every way", 6, _statuses)]
