"""After each test with a server: everything that the server counts is given back.

A release that is forgotten costs nothing at first: it is noticed when all calls are refused. So a test needn't look for
it. Counts are read from the parts of all servers that were made in the test, whichever transports these have, and of
servers that go on after it. They have to be 0 once nothing is under way.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import pytest

#: Time for what was begun to end, in seconds: threads and event loops end after the calls that waited for them.
SECONDS = 5.0

PACKAGE = "layerserve_server"
Counts = Mapping[str, int]
#: Parts of servers, and what they count.
Parts = list[tuple[Any, Callable[[Any], Counts]]]


def _repository(repository: Any) -> Counts:
    catalogue, memory = repository.catalogue, repository.memory
    with catalogue.lock:
        entries = list(catalogue.entries())
        living = set(memory.living)
        in_use = {entry.loaded for entry in entries}
        queues = [one.queue for one in living]
        return {
            "versions that are replaced or unloaded, and not freed": len(living - in_use),
            "leases of versions": sum(one._users for one in living),
            "calls that wait for a version in threads": sum(repository.leases._waiting_in_threads.values()),
            "bytes for versions that are being loaded": memory._reserved,
            "rows in queues": sum(queue.queued_rows for queue in queues),
            "requests in queues": sum(queue.queued_requests for queue in queues),
            "leaders of queues": sum(queue._has_leader for queue in queues),
        }


def _in_flight(metrics: Any) -> Counts:
    for hook in metrics._hooks._hooks:
        hook()
    metrics._flush()
    found = metrics.registry.restricted_registry(["layerserve_calls_in_flight"]).collect()
    samples = [sample for family in found for sample in family.samples]
    return {f"calls in flight in the metrics, {one.labels['method']}": int(one.value) for one in samples}


def _peers_and_methods(streams: Any) -> Counts:
    return {
        "open streams": len(streams._open),
        "handlers of streams": len(streams._tasks),
        "streams by address": len(streams._peers),
        "streams by method": len(streams._methods),
    }


def _beside(connections: Any) -> int:
    """Connections stay open after their requests."""
    return sum(connections._peers.values()) - len(connections._open)


#: Modules and names of the parts of servers that count something, and what they count.
PARTS: Mapping[str, Mapping[str, Callable[[Any], Counts]]] = {
    "access.quota": {"Quota": lambda one: {"runs that are being begun, of a caller": one._beginning}},
    "jobs.jobs": {"Jobs": lambda one: {}},
    "datasets.store": {"DatasetStore": lambda one: {"uploads of datasets": len(one._parts)}},
    "observability.metrics": {"Metrics": _in_flight},
    "repository.lazy_loading": {
        "LazyLoading": lambda one: {
            "calls that wait for loads": one._count,
            "loads that calls wait for": len(one._loads),
        }
    },
    "repository.changes": {"Changes": lambda one: {}},
    "repository.uploads": {"Uploads": lambda one: {}},
    "repository.repository": {"Repository": _repository},
    "services.datasets": {"DatasetService": lambda one: {}},
    "services.idempotency": {"IdempotencyKeys": lambda one: {"calls that begin something by a key": len(one._held)}},
    "extensions.online.service": {"OnlineTrainingService": lambda one: {"streams of sessions": len(one._streams)}},
    "extensions.mirroring.shadow": {
        "Shadows": lambda one: {"bytes of requests for shadows": 0 if one._closed else one._bytes}
    },
    "extensions.sequences.table": {
        "SequenceTable": lambda one: {"sequences": len(one._sequences), "bytes of states of sequences": one._size}
    },
    "training.conversion": {"Converter": lambda one: {}},
    "extensions.estimates.measured_run": {"MeasuredRuns": lambda one: {}},
    "extensions.explanations.service": {"ExplanationService": lambda one: {}},
    "training.runs.queue": {"RunQueue": lambda one: {"runs that are being begun": sum(one._beginning.values())}},
    "training.runs.table": {
        "RunTable": lambda one: {
            "runs that are being created": len(one._creating),
            "watchers of runs": sum(len(run.log.watchers) for run in one._runs.values()),
        }
    },
    "services.upload_slots": {"UploadSlots": lambda one: {"slots of uploads, by caller": len(one._callers)}},
    "transport.completion_queue": {
        "Poller": lambda one: {
            "calls whose request is being received": len(one.receiving),
            "replies that are being sent": len(one.sending),
        }
    },
    "transport.event_batch": {
        "EventBatches": lambda one: {"open calls": len(one.open), "calls that are being received": len(one.receiving)}
    },
    "transport.health": {"Health": lambda one: {"watchers of health": len(one._watchers)}},
    "transport.http.connection": {
        "HttpConnections": lambda one: {"connections of HTTP by address, beside the open ones": _beside(one)}
    },
    "transport.list_call_queue": {
        "ListCallQueue": lambda one: {
            "lists that calls wait for": len(one._calls),
            "turns of connections": len(one._turns),
        }
    },
    "transport.perimeter.memory": {"MemoryBudget": lambda one: {"bytes of the memory budget": one.held}},
    "transport.native": {
        "NativeServer": lambda one: {
            "calls of the front": len(one._calls),
            "folders of the front": one._batches.stopping and one._folder.exists(),
        }
    },
    "transport.streams": {"Streams": _peers_and_methods},
}
#: The classes that are whole servers.
SERVERS = {
    "app": "App",
    "transport.grpcio": "GrpcioServer",
    "transport.native": "NativeServer",
    "transport.http.server": "HttpServer",
}
#: Modules that leave out messages which are shorter than a constant: here all count, as those of tests are short.
COUNTING = ("transport.event_batch", "transport.http.app")
LOCK = type(threading.Lock())


def _held(part: Any) -> Counts:
    """Locks and places of a part that are held."""
    found = {}
    for name, value in getattr(part, "__dict__", {}).items():
        if isinstance(value, threading.BoundedSemaphore):
            found[f"places of {type(part).__name__}.{name}"] = value._initial_value - value._value
        elif isinstance(value, LOCK):
            found[f"{type(part).__name__}.{name} held"] = int(value.locked())
    return found


class Ledger:
    """The parts of servers, as they are made."""

    def __init__(self) -> None:
        #: Servers, and the parts that were made with each.
        self._servers: list[tuple[Any, Parts]] = []
        #: Those of the server that is being made.
        self._making: Parts | None = None
        #: Versions that calls have waited for: a repository that was closed has none any more.
        self._wanted: list[Any] = []
        #: Rows that queues had counted, and not given back, before they were closed, which sets the count to 0.
        self._rows = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Notes servers that are made from now on, and the parts that are made with them."""
        for module, name in SERVERS.items():
            patch.setattr(f"{PACKAGE}.{module}.{name}.__init__", self._around(module, name, self._server_made))
        for module, names in PARTS.items():
            if module.startswith("extensions.") and find_spec(f"{PACKAGE}.{module.rpartition('.')[0]}") is None:
                continue
            for name, counts in names.items():
                made = functools.partial(self._part_made, counts)
                patch.setattr(f"{PACKAGE}.{module}.{name}.__init__", self._around(module, name, made))
        for module in COUNTING:
            patch.setattr(f"{PACKAGE}.{module}.COUNTED_BYTES", 1)
        want, close = (
            _class("repository.lazy_loading", "LazyLoading").want,
            _class("inference.batching", "BatchQueue").close,
        )

        def note_wanted(lazy_loading: Any, entry: Any, *arguments: Any, **options: Any) -> None:
            self._wanted.append(entry)
            want(lazy_loading, entry, *arguments, **options)

        def note_rows(queue: Any) -> None:
            with queue._lock:
                self._rows += queue._queued_rows - sum(one.rows_left for one in queue._queue)
            close(queue)

        patch.setattr(f"{PACKAGE}.repository.lazy_loading.LazyLoading.want", note_wanted)
        patch.setattr(f"{PACKAGE}.inference.batching.BatchQueue.close", note_rows)

    def _around(self, module: str, name: str, note: Callable[[Any, Callable[[], None]], None]) -> Callable[..., None]:
        original = _class(module, name).__init__

        @functools.wraps(original)
        def init(made: Any, *arguments: Any, **options: Any) -> None:
            note(made, functools.partial(original, made, *arguments, **options))

        return init

    def _server_made(self, made: Any, make: Callable[[], None]) -> None:
        if self._making is not None:
            # It is a part of another one, which stops it.
            make()
            return
        self._making = parts = []
        try:
            make()
        finally:
            self._making = None
        self._servers.append((made, parts))

    def _part_made(self, counts: Callable[[Any], Counts], made: Any, make: Callable[[], None]) -> None:
        make()
        if self._making is not None:
            self._making.append((made, counts))

    def left(self) -> dict[str, int]:
        """Returns what isn't given back now, by what it is."""
        if not self._servers:
            return {}
        waiting = sum(entry.waiting for entry in self._wanted)
        found = Counter({"rows of closed queues": self._rows, "calls that wait for a version": waiting})
        for _, parts in tuple(self._servers):
            for part, counts in parts:
                found.update(counts(part))
                found.update(_held(part))
        return {what: count for what, count in found.items() if count}

    def settle(self) -> dict[str, int]:
        """Waits until everything is given back, and returns what isn't. Forgets then what has stopped."""
        end = time.monotonic() + SECONDS
        left: dict[str, int] | None = None
        try:
            while (left := self.left()) and time.monotonic() < end:
                time.sleep(0.002)
            return left
        finally:
            # One alarm for what isn't given back.
            self._servers = [one for one in self._servers if left == {} and not _stopped(one[0])]
            self._wanted.clear()
            self._rows = 0


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


def _stopped(server: Any) -> bool:
    transport = getattr(server, "_transport", server)
    return bool(transport._batches.stopping)


@pytest.fixture(scope="session")
def _ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    with pytest.MonkeyPatch.context() as patch:
        # Else no test that was collected has a server.
        if f"{PACKAGE}.app" in sys.modules:
            ledger.watch(patch)
        yield ledger


@pytest.fixture(autouse=True)
def _everything_is_given_back(_ledger: Ledger) -> Iterator[None]:
    yield
    left = _ledger.settle()
    assert not left, f"the server hasn't given back: {left}"
