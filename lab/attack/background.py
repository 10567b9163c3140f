"""Attacks that go on beside something else: a random one after the other, in a few processes."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor

from attacks import floods, memory, watches
from attacks.messages import DOWNLOAD, PREDICT, PREDICT_STREAM, REFLECTION, TRAIN, download, padded, predict_wide

from attack import neighbours, streams

MIB = 1 << 20
#: How long each attack lasts, in seconds.
SECONDS = 3.0
#: Attacks at once.
ATTACKS = 2

#: Attacks by name: a function of the server's address and what else it takes.
ATTACKS_BY_NAME: dict[str, tuple[Callable[..., Counter[str]], tuple[object, ...]]] = {
    "watches cancelled": (watches.open_and_cancel, (SECONDS,)),
    "watches held": (watches.hold, (300, SECONDS)),
    "watches not read": (watches.hold, (100, SECONDS, False)),
    "idle reflection": (streams.idle, (REFLECTION, 300, SECONDS)),
    "silent Train": (streams.idle, (TRAIN, 60, SECONDS)),
    "silent PredictStream": (streams.idle, (PREDICT_STREAM, 60, SECONDS)),
    "unfinished messages": (memory.unfinished, (PREDICT, 8 * MIB, 10, SECONDS)),
    "unfinished streams": (memory.unfinished, (PREDICT_STREAM, 8 * MIB, 10, SECONDS)),
    "bombs": (memory.bombs, (PREDICT_STREAM, 100 * MIB, 4)),
    "lies": (memory.lies, (PREDICT_STREAM, 5)),
    "answers not read": (memory.unread, (PREDICT, predict_wide(16), 5, 10, SECONDS, -1)),
    "downloads not read": (memory.unread, (DOWNLOAD, download(), 5, 5, SECONDS, 0)),
    "large requests": (memory.unread, (PREDICT, padded(MIB), 4, 10, SECONDS, 65_535)),
    "costly requests": (memory.costly, (1,)),
    "slow starts": (neighbours.slow_starts, (b"PRI", 50, SECONDS)),
    "idle connections": (neighbours.idle_connections, (500, SECONDS)),
    "garbage": (neighbours.garbage, (1.0,)),
    **{f"flood of {kind}": (floods.flood, (kind, 1.0)) for kind in floods.FLOODS},
}


class Attacks:
    """Attacks on whatever server there is, until they are stopped."""

    def __init__(self, pool: Executor, address: Callable[[], tuple[str, int]], seed: int = 0) -> None:
        self._pool, self._address = pool, address
        self._over = threading.Event()
        #: How often each attack ran, and what attackers saw.
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._attack, args=(random.Random(seed + number),), daemon=True)
            for number in range(ATTACKS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _attack(self, chance: random.Random) -> None:
        while not self._over.is_set():
            name = chance.choice(list(ATTACKS_BY_NAME))
            function, arguments = ATTACKS_BY_NAME[name]
            try:
                self.seen += self._pool.submit(function, self._address(), *arguments).result()
                self.counts[name] += 1
            except (OSError, ValueError):
                self._over.wait(0.1)  # the server is just being killed or started
            except Exception as error:
                self.counts[f"{name}: {type(error).__name__}"] += 1
                self._over.wait(0.1)
