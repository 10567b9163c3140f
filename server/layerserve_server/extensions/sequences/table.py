"""The sequences under way: whose they are, how many there may be, and which are dropped."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from layerserve_server.errors import BusyError, QuotaError, ServerError
from layerserve_server.extensions.sequences.metrics import SequenceMetrics
from layerserve_server.extensions.sequences.sequence import IDLE, Dropped, Key, Sequence, Step, lost
from layerserve_server.extensions.sequences.settings import SequenceSettings
from layerserve_server.inference.queue import Arrays
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.version import Lease

#: Maximum number of steps of a sequence that wait for one another.
MAX_WAITING: Final = 1024
#: Number of dropped sequences whose reason is remembered.
MAX_REMEMBERED: Final = 16384
#: What a sequence takes besides its states, in bytes.
OWN_BYTES: Final = 1024
#: Time after which a refused step may be repeated, in seconds.
RETRY_SECONDS: Final = 1.0


class SequenceTable:
    """The sequences under way. Thread-safe."""

    def __init__(
        self, settings: SequenceSettings, metrics: SequenceMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns the time in seconds."""
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._sequences: dict[Key, Sequence] = {}
        #: Numbers of sequences by caller and by model, and bytes by caller.
        self._of_callers: Counter[object] = Counter()
        self._of_models: Counter[str] = Counter()
        self._sizes: Counter[object] = Counter()
        self._size = 0
        #: What was dropped last.
        self._dropped: OrderedDict[Key, Dropped] = OrderedDict()
        self._lock = threading.Lock()
        metrics.watch(lambda: len(self._sequences), lambda: self._size)

    def enter(self, key: Key, caller: object, step: Step) -> tuple[Sequence, bool]:
        """Adds a step to those of its sequence, which is made if the step may begin one.

        Returns the sequence, and whether no other step is computed, so that `next` has to be called. Raises
        SequenceLostError or UnavailableError if the sequence isn't under way, and BusyError and QuotaError at a limit.
        """
        self.drop(key, IDLE, only_expired=True)
        with self._lock:
            sequence = self._sequences.get(key)
            if sequence is None:
                if not step.of.start:
                    raise self._lost(key)
                sequence = self._add(key, caller)
            elif len(sequence.waiting) >= MAX_WAITING:
                raise BusyError(f"{key.label}: {MAX_WAITING} steps of it wait", RETRY_SECONDS)
            sequence.waiting.append(step)
            begins, sequence.running = not sequence.running, True
            return sequence, begins

    def next(self, sequence: Sequence) -> Step | None:
        """Returns the step to be computed; None if none waits. A sequence without states is then removed."""
        with self._lock:
            leaving, sequence.leaving = sequence.leaving, []
            step = sequence.waiting.popleft() if sequence.waiting else None
            if step is None:
                sequence.running = False
                if sequence.states is None:
                    self._remove(sequence)
        for lease in leaving:
            lease.end()
        return step

    def lost(self, key: Key) -> ServerError:
        """Returns the error of a step of a sequence that isn't under way."""
        with self._lock:
            return self._lost(key)

    def reserve(self, sequence: Sequence, size: int, most: int | None) -> int:
        """Counts states of `size` bytes for a sequence that begins, and returns what they count as.

        `most` is the maximum number of sequences of the model, if there is one. Raises BusyError and QuotaError.
        """
        size += OWN_BYTES
        limit = self._settings.max_sequence_bytes
        of_caller = int(limit * min(1.0, self._settings.max_caller_sequences / self._settings.max_sequences))
        with self._lock:
            model, used = sequence.key.model, self._sizes[sequence.caller]
            if most is not None and self._of_models[model] > most:
                raise BusyError(f"all {most} sequences of model '{model}' are in use", RETRY_SECONDS)
            if used + size > of_caller:
                raise QuotaError(
                    f"the states of the sequence need {size} bytes, and the caller's others have {used} of "
                    f"{of_caller}, its share of max_sequence_bytes",
                    RETRY_SECONDS,
                )
            if self._size + size > limit:
                raise BusyError(
                    f"the states of the sequence need {size} bytes, and those of all others have {self._size} of "
                    f"{limit} (setting 'max_sequence_bytes')",
                    RETRY_SECONDS,
                )
            self._count(sequence, size)
        return size

    def release(self, sequence: Sequence, size: int) -> None:
        """Gives back what was reserved for a sequence that couldn't begin."""
        with self._lock:
            self._count(sequence, -size)

    def begin(
        self,
        sequence: Sequence,
        states: Arrays,
        *,
        held: Lease,
        choice: Choice,
        rows: int,
        size: int,
        idle_seconds: float | None,
    ) -> None:
        """Sets the states after the first step. The sequence that had the same id ends.

        `held` is ended with the sequence, and `size` is what was reserved.
        """
        with self._lock:
            if sequence.states is not None:
                self._metrics.ended(sequence.key.model)
            before = self._let_go(sequence)
            self._metrics.started(sequence.key.model)
            self._dropped.pop(sequence.key, None)
            sequence.held, sequence.choice = held, choice
            sequence.rows, sequence.size, sequence.count = rows, size, 0
            sequence.idle_seconds = idle_seconds or self._settings.sequence_idle_seconds
            self._set(sequence, states)
        if before is not None:
            before.end()

    def advance(self, sequence: Sequence, before: Arrays, states: Arrays) -> None:
        """Sets the states after a step, unless the sequence was dropped since it had those from before."""
        with self._lock:
            if sequence.states is before:
                self._set(sequence, states)

    def end(self, sequence: Sequence) -> None:
        """Ends a sequence after its last step."""
        with self._lock:
            if sequence.states is None:
                return
            self._metrics.ended(sequence.key.model)
            held = self._let_go(sequence)
        if held is not None:
            held.end()

    def close(self, key: Key) -> None:
        """Ends the sequence of a stream that has ended."""
        with self._lock:
            self._dropped.pop(key, None)
            sequence = self._sequences.get(key)
            if sequence is None:
                return
            sequence.closed = True
            if sequence.states is not None:
                self._metrics.ended(key.model)
            held = self._part(sequence)
        if held is not None:
            held.end()

    def drop(self, key: Key, reason: str, *, only_expired: bool = False) -> None:
        """Drops a sequence. A step that is computed is still answered."""
        with self._lock:
            sequence = self._sequences.get(key)
            if sequence is None or sequence.states is None or (only_expired and not self._expired(sequence)):
                return
            self._metrics.dropped(key.model, reason)
            self._dropped[key] = Dropped.of(sequence, reason)
            self._dropped.move_to_end(key)
            if len(self._dropped) > MAX_REMEMBERED:
                self._dropped.popitem(last=False)
            held = self._part(sequence)
        if held is not None:
            held.end()

    def drop_expired(self) -> None:
        """Drops all sequences without a request for too long."""
        for sequence in self.all():
            if self._expired(sequence):
                self.drop(sequence.key, IDLE, only_expired=True)

    def all(self) -> list[Sequence]:
        """Returns the sequences under way."""
        with self._lock:
            return list(self._sequences.values())

    # With the lock held.

    def _add(self, key: Key, caller: object) -> Sequence:
        settings = self._settings
        if self._of_callers[caller] >= settings.max_caller_sequences:
            raise QuotaError(
                f"all {settings.max_caller_sequences} sequences of the caller are in use (setting "
                "'max_caller_sequences'); end some, or wait until they are dropped",
                RETRY_SECONDS,
            )
        if len(self._sequences) >= settings.max_sequences:
            raise BusyError(
                f"all {settings.max_sequences} sequences of the server are in use (setting 'max_sequences')",
                RETRY_SECONDS,
            )
        made = self._sequences[key] = Sequence(key, caller, self._clock(), settings.sequence_idle_seconds)
        self._of_callers[caller] += 1
        self._of_models[key.model] += 1
        return made

    def _remove(self, sequence: Sequence) -> None:
        key = sequence.key
        del self._sequences[key]
        _subtract(self._of_callers, sequence.caller, 1)
        _subtract(self._of_models, key.model, 1)

    def _expired(self, sequence: Sequence) -> bool:
        return not sequence.running and self._clock() - sequence.last_used > sequence.idle_seconds

    def _lost(self, key: Key) -> ServerError:
        return lost(key, self._dropped.get(key), self._since)

    def _set(self, sequence: Sequence, states: Arrays) -> None:
        sequence.states = states
        sequence.count += 1
        sequence.last_used = self._clock()
        if sequence.closed:
            # Its stream ended while the step was computed.
            self._metrics.ended(sequence.key.model)
            self._part(sequence)

    def _part(self, sequence: Sequence) -> Lease | None:
        """Takes the states of a sequence, and removes it unless a step is computed.

        Returns the lease, to be ended without the lock; None if the step still needs it.
        """
        held = self._let_go(sequence)
        if not sequence.running:
            self._remove(sequence)
            return held
        if held is not None:
            sequence.leaving.append(held)
        return None

    def _let_go(self, sequence: Sequence) -> Lease | None:
        """Takes the states of a sequence. Returns the lease, to be ended without the lock."""
        self._count(sequence, -sequence.size)
        held, sequence.held, sequence.states, sequence.size = sequence.held, None, None, 0
        return held

    def _count(self, sequence: Sequence, size: int) -> None:
        self._size += size
        _subtract(self._sizes, sequence.caller, -size)


def _subtract(counts: Counter[Any], key: object, number: int) -> None:
    """Subtracts a number, and drops a count that is 0."""
    counts[key] -= number
    if not counts[key]:
        del counts[key]
