"""The table of sequences: limits, what is dropped and why, and that memory is given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from layerserve_server.errors import BusyError, QuotaError, SequenceLostError, UnavailableError
from layerserve_server.extensions.sequences import table as tables
from layerserve_server.extensions.sequences.metrics import SequenceMetrics
from layerserve_server.extensions.sequences.sequence import DRAIN, VERSION, Key
from layerserve_server.extensions.sequences.settings import SequenceSettings
from layerserve_server.extensions.sequences.table import OWN_BYTES, SequenceTable
from layerserve_server.observability.families import Families
from layerserve_server.services.prediction.sequence_step import SequenceStep
from prometheus_client import CollectorRegistry


class Lease:
    ended = False

    def end(self) -> None:
        self.ended = True


class World:
    """A table whose clock stands still."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.registry = CollectorRegistry()
        made = SequenceSettings.model_construct(**{**DEFAULTS, **settings})
        self.table = SequenceTable(made, SequenceMetrics(Families(self.registry)), lambda: self.now)

    def enter(self, key: Key, caller: object = "a", *, start: bool = False) -> tuple[Any, bool]:
        return self.table.enter(key, caller, SimpleNamespace(of=SequenceStep(key.id, start)))

    def begin(self, key: Key, caller: object = "a", size: int = 0) -> tuple[Any, Lease]:
        """A sequence after its first step."""
        sequence, _ = self.enter(key, caller, start=True)
        self.table.next(sequence)
        held = Lease()
        counted = self.table.reserve(sequence, size, None)
        states = {"h": np.zeros(1)}
        self.table.begin(sequence, states, held=held, choice=("m", None, None), rows=1, size=counted, idle_seconds=None)
        assert self.table.next(sequence) is None
        return sequence, held

    def counts(self) -> dict[str, float]:
        return {
            sample.name.removeprefix("layerserve_"): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }


DEFAULTS = {name: field.default for name, field in SequenceSettings.model_fields.items() if "sequence" in name}
ONE, TWO = Key("", "m", "one"), Key("", "m", "two")


def test_a_sequence_without_a_request_for_too_long_is_dropped_and_its_next_step_is_told():
    world = World(sequence_idle_seconds=60.0)
    _, held = world.begin(ONE)
    world.now += 60
    assert world.enter(ONE)[1]
    world.table.next(world.table.all()[0])
    # One whose step is computed isn't idle, however long that takes.
    world.now += 61
    world.table.drop_expired()
    assert world.table.next(world.table.all()[0]) is None
    with pytest.raises(SequenceLostError) as caught:
        world.enter(ONE)
    assert str(caught.value) == (
        "inference request for sequence one to model 'm' must specify the START flag on the first request of the "
        "sequence; it was dropped: no request came for 60 s, after 1 steps of it"
    )
    assert held.ended
    assert world.counts() == {
        "sequences": 0,
        "sequence_bytes": 0,
        "sequences_started_total": 1,
        "sequences_dropped_total": 1,
    }
    world.begin(ONE)
    world.now += 61
    world.table.drop_expired()
    assert (world.table.all(), world.counts()["sequences_dropped_total"]) == ([], 2)


def test_one_that_drained_is_elsewhere_and_one_without_a_version_is_lost():
    world = World()
    for key, reason, kind, text in (
        (ONE, DRAIN, UnavailableError, "has ended: the server is draining"),
        (TWO, VERSION, SequenceLostError, "it was dropped: its version was deleted or unloaded"),
    ):
        world.begin(key)
        world.table.drop(key, reason)
        with pytest.raises(kind, match=text):
            world.enter(key)


def test_an_id_that_is_unknown_says_when_the_server_was_started():
    with pytest.raises(SequenceLostError, match=r"it has ended, or hasn't begun since the start at 20\d\d-"):
        World().enter(ONE)


def test_numbers_are_limited_for_all_and_for_each_caller():
    world = World(max_sequences=3, max_caller_sequences=2)
    world.begin(ONE)
    world.begin(TWO)
    with pytest.raises(QuotaError, match="all 2 sequences of the caller are in use"):
        world.enter(Key("", "m", "three"), start=True)
    world.begin(Key("b", "m", "one"), "b")
    with pytest.raises(BusyError, match="all 3 sequences of the server are in use"):
        world.enter(Key("c", "m", "one"), "c", start=True)
    sequence, _ = world.enter(ONE)
    world.table.next(sequence)
    world.table.end(sequence)
    assert world.table.next(sequence) is None
    world.begin(Key("", "m", "three"))


def test_bytes_are_limited_for_all_and_for_each_caller_and_given_back():
    world = World(max_sequences=4, max_caller_sequences=2, max_sequence_bytes=4 * OWN_BYTES)
    world.begin(ONE, size=OWN_BYTES)
    sequence, _ = world.enter(TWO, start=True)
    with pytest.raises(QuotaError, match=r"need 1025 bytes, and the caller's others have 2048 of 2048"):
        world.table.reserve(sequence, 1, None)
    world.begin(Key("b", "m", "one"), "b", size=OWN_BYTES)
    other, _ = world.enter(Key("c", "m", "one"), "c", start=True)
    with pytest.raises(BusyError, match=r"need 1024 bytes, and those of all others have 4096 of 4096"):
        world.table.reserve(other, 0, None)
    with pytest.raises(BusyError, match="all 3 sequences of model 'm' are in use"):
        world.table.reserve(other, 0, 3)
    for waits in (sequence, other):
        world.table.next(waits)
        assert world.table.next(waits) is None
    world.table.drop(ONE, VERSION)
    world.table.drop(Key("b", "m", "one"), VERSION)
    assert (world.table.all(), world.table._size) == ([], 0)
    assert not world.table._sizes
    assert not world.table._of_callers
    assert not world.table._of_models


def test_a_version_is_held_while_a_step_of_a_dropped_sequence_is_computed():
    world = World()
    sequence, held = world.begin(ONE)
    world.enter(ONE)
    world.table.next(sequence)
    before = sequence.states
    world.table.drop(ONE, VERSION)
    world.table.advance(sequence, before, {"h": np.ones(1)})
    assert (sequence.states, held.ended) == (None, False)
    assert world.table.next(sequence) is None
    assert (held.ended, world.table.all()) == (True, [])


def test_a_start_begins_anew_and_ends_what_was():
    world = World()
    _, first = world.begin(ONE, size=8)
    _, second = world.begin(ONE, size=4)
    assert (first.ended, second.ended, world.table._size) == (True, False, OWN_BYTES + 4)
    assert world.counts()["sequences_ended_total"] == 1


def test_the_sequence_of_a_stream_ends_with_it_also_while_its_first_step_is_computed():
    world = World()
    key = Key("", "m", "", object())
    _, held = world.begin(key)
    world.table.close(key)
    assert (held.ended, world.table.all()) == (True, [])
    sequence, _ = world.enter(key, start=True)
    world.table.next(sequence)
    size = world.table.reserve(sequence, 0, None)
    world.table.close(key)
    held = Lease()
    world.table.begin(sequence, {}, held=held, choice=("m", None, None), rows=1, size=size, idle_seconds=None)
    assert world.table.next(sequence) is None
    assert (held.ended, world.table.all(), world.table._size) == (True, [], 0)


def test_steps_that_wait_and_reasons_that_are_remembered_are_limited(monkeypatch):
    monkeypatch.setattr(tables, "MAX_WAITING", 2)
    monkeypatch.setattr(tables, "MAX_REMEMBERED", 1)
    world = World()
    sequence, _ = world.enter(ONE, start=True)
    world.enter(ONE)
    with pytest.raises(BusyError, match="sequence one: 2 steps of it wait"):
        world.enter(ONE)
    while world.table.next(sequence):
        pass
    for key in (ONE, TWO):
        world.begin(key)
        world.table.drop(key, VERSION)
    assert list(world.table._dropped) == [TWO]
