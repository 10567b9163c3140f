"""A session of online training as its client sees it: when its stream is opened again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from layerserve import online_feed
from layerserve.errors import Unavailable
from layerserve.flow import Pause
from layerserve.online_feed import OnlineFeed

DELAYS = (0.5, 2.0)


@pytest.mark.parametrize(("session", "pauses"), [(None, []), ("run-1", list(DELAYS))])
def test_only_a_session_that_exists_is_attached_to_again(monkeypatch, session, pauses):
    """A stream that was cut while it opened a session may have opened it: another one would open a second."""

    def signature(*_):
        yield from ()
        return SimpleNamespace(inputs=(), outputs=())

    monkeypatch.setattr(online_feed, "fetch_signature", signature)
    waited = []

    def run(flow):
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                waited.append(step.seconds)
                step = next(flow)
            else:
                step = flow.throw(Unavailable("the server is away"))

    with pytest.raises(Unavailable):
        run(OnlineFeed(None, "m", session, None, None, {}, DELAYS).start())
    assert waited == pauses
