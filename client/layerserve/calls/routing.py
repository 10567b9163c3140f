"""Which servers are asked for a model, so that each has its share of the models in memory.

This is rendezvous hashing: each server has a score for each model, and those with the highest scores are asked. So all
clients that know the same addresses agree, and a server that comes or goes moves only the models that it has.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from layerserve.calls.server_addresses import ServerAddresses
from layerserve.calls.tokens import Metadata

#: Metadata key for the model that a call is about, by which proxies route.
MODEL_KEY = "layerserve-model"
#: Time for which a server that couldn't be reached isn't asked again, in seconds.
LOST_SECONDS = 1.0
#: Time for a server to answer a health check, in seconds, and time for which one that didn't isn't asked again.
ANSWER_SECONDS, SILENT_SECONDS = 2.0, 10.0
#: Number of models whose servers are remembered.
MAX_REMEMBERED = 4096

#: What servers take as the name of a model. It can be sent as metadata as it is.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

C = TypeVar("C")


def model_metadata(model: str) -> Metadata:
    """Returns the metadata that names a model; none for a name that no model can have, which the server refuses."""
    return ((MODEL_KEY, model),) if _MODEL.fullmatch(model) else ()


def ranked(model: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Returns the addresses in the order in which they are asked for a model."""

    def score(address: str) -> bytes:
        return hashlib.blake2b(f"{model} {address}".encode(), digest_size=8).digest()

    return tuple(sorted(addresses, key=score, reverse=True))


@dataclass(eq=False)
class Server(Generic[C]):
    """A server that is asked for models."""

    channel: C
    #: Held by the call that finds out whether it answers; a lock of threads or tasks.
    checking: Any
    #: Whether it has answered, and not failed since.
    answers: bool = False
    #: When a server that doesn't answer may be asked again, as a monotonic time in seconds.
    ask_at: float = 0.0
    open_calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def eligible(self) -> bool:
        """Whether it answers, or may answer by now."""
        return self.answers or time.monotonic() >= self.ask_at

    def failed(self, seconds: float) -> None:
        """Notes that a call found no server, so that none asks it for some seconds."""
        self.answers, self.ask_at = False, time.monotonic() + seconds

    def count(self, change: int) -> None:
        """Counts a call that begins (1) or ends (-1)."""
        with self._lock:
            self.open_calls += change


class Routes(Generic[C]):
    """The servers of a client, in the order in which they are asked for a model. Thread-safe."""

    def __init__(self, addresses: ServerAddresses, count: int, connect: Callable[[str], Server[C]]) -> None:
        """`count` is the number of servers that share the calls for a model. `connect` opens an address."""
        self.addresses = addresses
        self._count = count
        self._connect = connect
        self._seen: tuple[str, ...] = ()
        self._servers: dict[str, Server[C]] = {}
        self._ranked: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        _ROUTES.add(self)

    def order(self, model: str) -> list[Server[C]]:
        """Returns the servers to ask for a model, one after the other; none if there is nothing to choose."""
        found = self.addresses.known()
        if len(found) < 2:
            return []
        with self._lock:
            if found is not self._seen:
                self._follow(found)
            names = self._ranked.get(model)
            if names is None:
                if len(self._ranked) >= MAX_REMEMBERED:
                    self._ranked.clear()
                names = self._ranked[model] = ranked(model, found)
            servers = [one for name in names if (one := self._servers[name]).eligible]
        shared = servers[: self._count]
        if len(shared) > 1:
            random.shuffle(shared)
            shared.sort(key=lambda one: one.open_calls)
        return [*shared, *servers[self._count :]]

    def channels(self) -> list[C]:
        """Returns the channels to all servers."""
        with self._lock:
            return [one.channel for one in self._servers.values()]

    def begin_anew(self) -> None:
        """Forgets the servers. For a forked child, without the threads that held locks or resolved the name."""
        # gRPC may wait forever for the parent's threads when one of their channels is freed.
        _PARENTS.append(self._servers)
        self._lock = threading.Lock()
        self._seen, self._servers = (), {}
        self.addresses.resolve_anew()

    def _follow(self, found: tuple[str, ...]) -> None:
        # The channel of a server that is gone is freed, and so closed, when its last call has ended.
        self._servers = {name: self._servers.get(name) or self._connect(name) for name in found}
        self._seen = found
        self._ranked.clear()


#: Those of this process.
_ROUTES: WeakSet[Routes[Any]] = WeakSet()
#: Servers of the processes that this one was forked from.
_PARENTS: list[object] = []


def _begin_anew() -> None:
    for one in list(_ROUTES):
        one.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
