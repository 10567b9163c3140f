"""How workers follow changes of the repository: the supervisor sends orders, and workers answer when they are done.

Orders are JSON lines on a worker's standard input, {"order": 1, "scan": "mnist", "versions": null}; answers are lines
on its standard output, {"order": 1, "serving": {...}}. A number instead of an order ends the worker, and null has it
close connections of HTTP.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TextIO, TypeAlias

logger = logging.getLogger(__name__)

#: Time for workers to carry out an order, in seconds.
FOLLOW_SECONDS: Final = 30.0

#: The line that has a worker close each connection of HTTP after its next reply.
DRAIN: Final = "null\n"

#: What must be equal in all processes (see `Catalogue.serving`).
_SHARED: Final = ("loaded", "default", "labels", "canary")

#: What a process serves of a model (see `Catalogue.serving`); None if the process has ended.
Serving: TypeAlias = Mapping[str, Any] | None


class RepositorySync:
    """Orders that workers have yet to answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        #: Answers by worker, and the workers that are waited for, by order.
        self._answers: dict[int, queue.SimpleQueue[tuple[int, Serving]]] = {}

    def ask(
        self,
        model: str,
        workers: Collection[int],
        send: Callable[[str], None],
        versions: Collection[int] | None = None,
        seconds: float = FOLLOW_SECONDS,
    ) -> dict[int, Serving]:
        """Has workers scan a model: all of it, or these versions.

        Sends an order with `send`, and waits for these workers. Returns their answers, without late ones.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[tuple[int, Serving]] = queue.SimpleQueue()
        with self._lock:
            self._answers[number] = answers
        found: dict[int, Serving] = {}
        end = time.monotonic() + seconds
        try:
            send(json.dumps({"order": number, "scan": model, "versions": versions}) + "\n")
            while not found.keys() >= set(workers) and (left := end - time.monotonic()) > 0:
                try:
                    worker, serving = answers.get(timeout=left)
                except queue.Empty:
                    break
                found[worker] = serving
        finally:
            with self._lock:
                del self._answers[number]
        return found

    def answered(self, worker: int, line: str) -> None:
        """Takes a line that a worker has written."""
        try:
            answer = json.loads(line)
            number, serving = answer["order"], answer["serving"]
        except (ValueError, LookupError, TypeError):
            logger.error("a worker process has written a line that is no answer: %.200s", line)
            return
        with self._lock:
            answers = self._answers.get(number)
        if answers is not None:
            answers.put((worker, serving))

    def ended(self, worker: int) -> None:
        """Answers all orders for a worker that has ended."""
        with self._lock:
            waiting = list(self._answers.values())
        for answers in waiting:
            answers.put((worker, None))


def lagging(expected: Mapping[str, Any], workers: Iterable[int], answers: Mapping[int, Serving]) -> Sequence[str]:
    """Returns a text for each worker in which a model isn't served as expected, with the reason."""
    found = []
    for worker in workers:
        name = f"worker process {worker + 1}"
        if worker not in answers:
            found.append(f"{name}: it hasn't followed within {FOLLOW_SECONDS:g} s, but still may")
            continue
        serving = answers[worker]
        if serving is None:
            found.append(f"{name}: it has ended, and is being started again")
            continue
        different = [key for key in _SHARED if serving.get(key) != expected.get(key)]
        if different:
            states = ", ".join(f"{key} is {serving.get(key)}, expected {expected.get(key)}" for key in different)
            reasons = "; ".join(f"version {version}: {reason}" for version, reason in serving["reasons"].items())
            found.append(f"{name}: {states}" + (f" ({reasons})" if reasons else ""))
    return found


class Orders:
    """Carries out orders in a worker, one after another in a thread."""

    def __init__(
        self,
        scan: Callable[[str, Mapping[str, Collection[int]] | None], None],
        serving: Callable[[str], Mapping[str, Any]],
        drain: Callable[[], None],
        answers: TextIO,
    ) -> None:
        """`scan` scans a model (see `Repository.scan`), `serving` returns what is then served of it.

        `drain` has connections of HTTP closed. `answers` is what the main process reads.
        """
        self._scan, self._serving, self._drain, self._answers = scan, serving, drain, answers
        self._pool = ThreadPoolExecutor(1, "orders")

    def take(self, lines: Iterable[str]) -> float:
        """Takes orders until the line that ends the worker, or the end. Returns the grace period in that line."""
        for line in lines:
            order = json.loads(line)
            if order is None:
                self._drain()
                continue
            if not isinstance(order, dict):
                return float(order)
            self._pool.submit(self._follow, order["order"], order["scan"], order["versions"])
        return 0.0

    def close(self) -> None:
        """Drops orders that haven't begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _follow(self, number: int, model: str, versions: Collection[int] | None) -> None:
        try:
            self._scan(model, None if versions is None else {model: versions})
        except Exception:
            logger.exception("the scan of model '%s' failed", model)
        print(json.dumps({"order": number, "serving": self._serving(model)}), file=self._answers, flush=True)
