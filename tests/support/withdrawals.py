"""Callers that lose what they had while a gate is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import pytest
from layerserve_server.access.gate import Gate
from layerserve_server.errors import ForbiddenError, UnauthenticatedError

LIST = "/layerserve.v1.ModelService/ListModels"


def call(metadata: Sequence[tuple[str, str]] = (), names: Sequence[str] = ()) -> SimpleNamespace:
    """A call with this metadata, and these names in the client's certificate."""
    return SimpleNamespace(method=LIST, metadata=list(metadata), certificate_names=lambda: names)


def check_refused(
    gate: Gate, arrivals: Mapping[str, SimpleNamespace], who: str, withdraw: Callable[[], object]
) -> None:
    """Checks that one of these callers is refused at each door after `withdraw`, and no other.

    `arrivals` are their calls by name.
    """
    # Twice, so that whatever is kept of a caller has been used.
    callers = {name: [gate.admit(arrival) for _ in range(2)][1] for name, arrival in arrivals.items()}
    assert {name: caller.name for name, caller in callers.items()} == {name: name for name in arrivals}
    header = dict(arrivals[who].metadata).get("authorization")
    if header is not None:
        assert gate.admit_http("/metrics", header) is callers[who]
    withdraw()
    gate.refresh()
    for _ in range(2):
        with pytest.raises((UnauthenticatedError, ForbiddenError)):
            gate.admit(arrivals[who])
        if header is not None:
            with pytest.raises((UnauthenticatedError, ForbiddenError)):
                gate.admit_http("/metrics", header)
    # Its streams end. All other callers keep what they had.
    assert callers[who].lost("") is not None
    for name in arrivals.keys() - {who}:
        assert gate.admit(arrivals[name]).key == callers[name].key, name
        assert callers[name].lost("") is None, name


def check_expired(gate: Gate, arrival: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that a caller is refused at each door when its token has expired, though it was admitted."""
    caller = [gate.admit(arrival) for _ in range(2)][1]
    assert caller.expires is not None
    later = caller.expires + 1
    monkeypatch.setattr("layerserve_server.access.caller.time", SimpleNamespace(time=lambda: later))
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match="has expired"):
            gate.admit(arrival)
        with pytest.raises(UnauthenticatedError, match="has expired"):
            gate.admit_http("/metrics", arrival.metadata[0][1])
