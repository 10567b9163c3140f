"""Slots of uploads: one caller leaves some to others."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from layerserve_server.access.caller import Caller
from layerserve_server.errors import BusyError
from layerserve_server.services.upload_slots import UploadSlots


def stream(name, peer):
    return SimpleNamespace(caller=Caller(name or "anonymous", named=bool(name)), peer=peer)


@pytest.mark.parametrize("first", [("ann", ("a", "b")), ("", ("a", "a"))], ids=["a token", "an address"])
def test_a_caller_has_half_of_the_slots_wherever_it_calls_from(first):
    slots, (name, peers) = UploadSlots(4), first
    with ExitStack() as held:
        for peer in peers:
            held.enter_context(slots.occupy(stream(name, peer)))
        with pytest.raises(BusyError, match="2 runs are receiving data from one caller, which is the limit"):
            held.enter_context(slots.occupy(stream(name, peers[0])))
        for _ in range(2):
            held.enter_context(slots.occupy(stream("bob", "a")))
        with pytest.raises(BusyError, match="4 runs are receiving data, which is the limit"):
            held.enter_context(slots.occupy(stream("eve", "e")))
    assert not slots._callers


def test_callers_of_unknown_addresses_are_not_one():
    slots = UploadSlots(2)
    with slots.occupy(stream("", "")), slots.occupy(stream("", "")):
        pass
