"""Sessions of training step by step: which error a stream gets when its session's process has ended.

What a session does is tested in tests/end_to_end/test_online.py.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from layerserve_server.errors import IdleStreamError, NotTrainableError, ServerError, UnavailableError
from layerserve_server.extensions.online.publications import IDLE
from layerserve_server.extensions.online.service import _raise_end
from layerserve_server.training import events
from layerserve_server.training.watchers import Watchers


def end(last):
    """Has a stream end with its session, whose last event this is. Returns its error; None if there is none."""
    log = SimpleNamespace(ended=True, last=last, watchers=Watchers())
    try:
        asyncio.run(_raise_end(SimpleNamespace(id="r1", log=log), SimpleNamespace()))
    except ServerError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("last", "error", "text"),
    [
        (events.Failed(f"{IDLE} for 5 seconds", resumable=True), IdleStreamError, "session 'r1' can be resumed"),
        (events.Failed("out of memory", resumable=True), UnavailableError, "was interrupted: out of memory; it can be"),
        (events.Failed("loss is nan"), NotTrainableError, "session 'r1' failed: loss is nan"),
        (events.Cancelled(1), NotTrainableError, "session 'r1' was cancelled"),
        (events.Paused(1, 2), NotTrainableError, "session 'r1' was paused; resume it"),
    ],
)
def test_a_stream_ends_with_the_reason_of_its_session(last, error, text):
    found = end(last)
    assert type(found) is error
    assert text in str(found)


def test_a_stream_ends_without_an_error_where_its_session_was_ended():
    assert end(events.Finished(2, {}, 1.0)) is None
