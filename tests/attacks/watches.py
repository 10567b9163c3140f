"""Health/Watch and WatchRun: opened and cancelled, held, never read."""

from __future__ import annotations

import time
from collections import Counter
from itertools import cycle

from attacks.check import Check, Scene
from attacks.frames import Answer, Ended, Wire, message
from attacks.messages import WATCH

#: Streams on one connection.
STREAMS = 100
#: Time that first answers may take on a busy machine, in seconds.
ANSWER_SECONDS = 30.0


def open_and_cancel(address: tuple[str, int], seconds: float) -> Counter[str]:
    """Watches, a hundred at once, cancelled as soon as some have answered."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    wire = Wire(address)
    while time.monotonic() < until:
        try:
            numbers = [wire.open(WATCH) for _ in range(STREAMS)]
            for number in numbers:
                wire.give(number, message(b""))
            wire.read(0.02)
            for number in numbers:
                wire.reset(number)
            seen["cancelled"] += len(numbers)
            wire.answers.clear()
        except Ended:
            seen["connection ended"] += 1
            wire.close()
            wire = Wire(address)
    wire.close()
    return seen


def _silent(answer: Answer) -> bool:
    return not (answer.end or answer.data)


def hold(address: tuple[str, int], count: int, seconds: float, takes: bool = True) -> Counter[str]:
    """Watches that are held, and what they have brought by the end."""
    wires = [Wire(address, takes=takes) for _ in range((count + STREAMS - 1) // STREAMS)]
    numbers = [(wire, wire.open(WATCH)) for wire, _ in zip(cycle(wires), range(count), strict=False)]
    for wire, number in numbers:
        wire.give(number, message(b""))
    seen: Counter[str] = Counter()
    try:
        until = time.monotonic() + ANSWER_SECONDS
        while takes and time.monotonic() < until and any(_silent(wire.answers[number]) for wire, number in numbers):
            for wire in wires:
                wire.read(0.05)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for wire in wires:
                wire.read(left / len(wires))
    except Ended as error:
        seen[f"ended: {error}"] += 1
    for wire, number in numbers:
        answer = wire.answers[number]
        reason = answer.headers.get("layerserve-reason", "")
        seen[f"{answer.end} {reason}".strip() or ("open" if answer.data else "silent")] += 1
    for wire in wires:
        wire.close()
    return seen


def _open_and_cancel(scene: Scene) -> Counter[str]:
    seen = scene.attack(open_and_cancel, scene.seconds, times=2)
    scene.expect(seen["cancelled"] > 200, f"only {dict(seen)}")
    return seen


def _hold(scene: Scene) -> Counter[str]:
    seen = scene.attack(hold, 600, scene.seconds)
    scene.expect(seen["open"] == 600, f"600 watches: {dict(seen)}")
    return seen


def _hold_too_many(scene: Scene) -> Counter[str]:
    seen = scene.attack(hold, 600, scene.seconds)
    scene.expect(0 < seen["open"] <= 128, f"watches of one address, of which 128 may be open: {dict(seen)}")
    scene.only(seen, "open", "status 12 unknown_method")
    return seen


def _hold_unread(scene: Scene) -> Counter[str]:
    return scene.attack(hold, 300, scene.seconds, False)


NO_PEER = "its front doesn't say whose a stream is, so that addresses have no limit of their own"

CHECKS = [
    Check("Watch opened and cancelled by hundreds", 1, _open_and_cancel),
    Check("600 watches held", 1, _hold, settings={"max_peer_streams": 1000}),
    Check("600 watches of one address, past its limit", 1, _hold_too_many, beyond={"native": NO_PEER}),
    Check("300 watches whose callers read nothing", 1, _hold_unread, settings={"max_peer_streams": 1000}),
]
