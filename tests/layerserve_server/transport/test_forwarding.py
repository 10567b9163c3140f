"""Calls that a worker forwards: which metadata goes with them."""

from __future__ import annotations

import pytest
from layerserve_server.transport.forwarding import _may_be_sent


@pytest.mark.parametrize(
    ("key", "value", "sent"),
    [
        ("a-b_c.1", "text ~", True),
        ("a", "", True),
        ("A", "text", False),
        ("a b", "text", False),
        ("", "text", False),
        ("a", "\x7f", False),
        ("a", "line\n", False),
        ("a", b"bytes", False),
        ("a-bin", b"\0\xff", True),
    ],
)
def test_only_what_grpcio_can_send_is_forwarded(key: str, value: str | bytes, sent: bool) -> None:
    assert _may_be_sent(key, value) is sent
