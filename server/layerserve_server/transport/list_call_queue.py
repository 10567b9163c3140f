"""Calls that list all models, runs, nodes or the like: they are answered one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from layerserve_server.transport.call import Call, Handler
from layerserve_server.transport.client_address import peer_of
from layerserve_server.transport.perimeter.limits import LIST_THREADS


class ListCall(Call, Protocol):
    """A call that can be answered together with others."""

    def answer_together(self, handler: Handler, equal: Sequence[Any]) -> None:
        """Runs a handler for this call and equal ones: once if it answers now."""


class ListCallQueue:
    """Makes one list at a time, since several threads would keep Python's lock from the receiving thread.

    Connections take turns, so that one with many calls delays only itself. Equal calls of the same caller that are
    waiting get the same reply.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(LIST_THREADS, "lists")
        self._lock = threading.Lock()
        #: Calls that wait, by method, caller and request.
        self._calls: dict[Hashable, list[ListCall]] = {}
        #: Keys of `_calls` by connection, both in the order of their turns. Keys of calls that were answered stay.
        self._turns: OrderedDict[str, OrderedDict[Hashable, Handler]] = OrderedDict()

    def submit(self, call: ListCall, handler: Handler) -> None:
        """Runs the handler of a call in its turn."""
        key = (call.method, call.caller, call.request)
        connection = peer_of(str(call.client()), call.metadata)
        with self._lock:
            self._calls.setdefault(key, []).append(call)
            turns = self._turns.setdefault(connection, OrderedDict())
            if key in turns:
                return
            turns[key] = handler
        self._pool.submit(self._take_turn)

    def close(self) -> None:
        """Drops the calls whose turn hasn't come."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take_turn(self) -> None:
        with self._lock:
            connection, turns = self._turns.popitem(last=False)
            key, handler = turns.popitem(last=False)
            if turns:
                self._turns[connection] = turns
            calls = self._calls.pop(key, [])
        open_calls = [call for call in calls if not call.answered]
        if open_calls:
            first, *equal = open_calls
            first.answer_together(handler, equal)
