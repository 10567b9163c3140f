"""A few attacks: honest callers see no error, memory and threads stay, SIGTERM ends the server.

How quick honest callers are answered is left to `make -C lab attack`, as it depends on who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from importlib.util import find_spec

import pytest
from attacks import floods, memory, statuses, watches
from attacks.check import Check
from attacks.floods import IMPATIENT
from attacks.memory import GROWTH
from attacks.runner import Place, attackers

TRANSPORTS = [
    "grpcio",
    pytest.param("native", marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="needs pygrpc-native")),
]
#: One server for all: limits so small that attacks pass them.
SETTINGS = {
    **IMPATIENT,
    "stalled_seconds": 1.5,
    "max_message_bytes": 32 << 20,
    "max_buffered_bytes": 128 << 20,
    "max_peer_streams": 128,
    "warm_training": False,
}
NAMES = [
    "600 watches of one address, past its limit",
    "flood of resets",
    "prefixes that lie on PredictStream",
    "gzip bombs on PredictStream",
    "answers on PredictStreams, never read",
    "calls that are wrong in every way",
]
#: All checks of `attacks`.
CHECKS = [check for module in (watches, memory, floods, statuses) for check in module.CHECKS]
#: How long a flood lasts.
SECONDS = 0.5


@pytest.fixture(scope="module", name="pool")
def _pool() -> Iterator[Executor]:
    with attackers() as pool:
        yield pool


@pytest.fixture(scope="module", name="place", params=TRANSPORTS)
def _place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("attack"), request.param, 1, times=False)
    yield place
    assert place.leave() == []


def _short(name: str) -> Check:
    (check,) = (check for check in CHECKS if check.name == name)
    return replace(check, settings=SETTINGS, memory=GROWTH)


@pytest.mark.parametrize("name", NAMES)
def test_honest_callers_notice_nothing(place: Place, pool: Executor, name: str, request: pytest.FixtureRequest) -> None:
    check = _short(name)
    transport = request.node.callspec.params["place"]
    if transport in check.beyond:
        pytest.skip(check.beyond[transport])
    verdict = place.carry_out(check, pool, SECONDS)
    assert verdict.faults == ()
    assert verdict.tried > 0
