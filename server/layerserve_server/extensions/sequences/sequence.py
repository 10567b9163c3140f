"""A sequence: its states after the last step, and the steps that wait for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from layerserve_server.errors import SequenceLostError, ServerError, UnavailableError, safe_text
from layerserve_server.inference.queue import Arrays
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.version import Lease
from layerserve_server.services.prediction.predict_protocol import PredictionRequest
from layerserve_server.services.prediction.sequence_step import SequenceStep
from layerserve_server.transport.call import Call, OpenStream

#: Reasons for which sequences are dropped, as metrics have them.
IDLE, VERSION, DRAIN = "idle", "version", "drain"
#: The reasons for callers.
TEXTS: Final = {
    IDLE: "no request came for {:g} s",
    VERSION: "its version was deleted or unloaded",
    DRAIN: "the server is draining",
}


class Key(NamedTuple):
    """What identifies a sequence."""

    #: Name of the caller; empty for callers without a token or certificate.
    owner: str
    model: str
    id: int | str
    #: The stream that it belongs to; None if it belongs to its caller.
    stream: OpenStream | None = None

    @property
    def label(self) -> str:
        """The sequence in error texts."""
        return f"sequence {safe_text(str(self.id), 80)}" if self.stream is None else "the stream's sequence"


class Step(NamedTuple):
    """A request of a sequence."""

    call: Call
    request: PredictionRequest
    of: SequenceStep


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence, whose steps are computed one after the other. Changed by `SequenceTable` only."""

    key: Key
    #: Whom it counts for: the caller's name, or else its address.
    caller: object
    #: When its last step ended, on the table's clock.
    last_used: float
    idle_seconds: float
    #: The states after the last step, by their names as inputs; None before the first step, and after the last.
    states: Arrays | None = None
    #: Of the version that computes all steps; None without states.
    held: Lease | None = None
    #: How the first step named the version.
    choice: Choice = ("", None, None)
    rows: int = 0
    #: What its states count as, in bytes.
    size: int = 0
    #: Number of steps.
    count: int = 0
    #: Steps that wait for the one that is computed, in the order of their arrival.
    waiting: deque[Step] = field(default_factory=deque)
    #: Whether a step is computed.
    running: bool = False
    #: Whether its stream has ended.
    closed: bool = False
    #: Of a version that a step still uses although the sequence was dropped.
    leaving: list[Lease] = field(default_factory=list)


class Dropped(NamedTuple):
    """Why a sequence was dropped."""

    reason: str
    text: str

    @classmethod
    def of(cls, sequence: Sequence, reason: str) -> Dropped:
        """Returns that of a sequence which is dropped now."""
        return cls(reason, f"{TEXTS[reason].format(sequence.idle_seconds)}, after {sequence.count} steps of it")


def lost(key: Key, dropped: Dropped | None, since: str) -> ServerError:
    """Returns the error of a step of a sequence that isn't under way, in Triton's words with the reason.

    `since` is when the server started.
    """
    if dropped is not None and dropped.reason == DRAIN:
        return UnavailableError(f"{key.label} of model '{key.model}' has ended: {dropped.text}; begin it elsewhere")
    why = f"it was dropped: {dropped.text}" if dropped else f"it has ended, or hasn't begun since the start at {since}"
    return SequenceLostError(
        f"inference request for {key.label} to model '{safe_text(key.model, 128)}' must specify the START flag on the "
        f"first request of the sequence; {why}"
    )


def unchanged(error: Exception) -> Exception:
    """Returns the error of a step that failed, which says that the sequence is as it was before."""
    if not isinstance(error, ServerError) or isinstance(error, SequenceLostError):
        return error
    # A copy, since the requests of a batch that failed share one.
    made: Any = type(error).__new__(type(error))
    made.__dict__.update(error.__dict__)
    made.args = (f"{error}; the sequence is as before this step",)
    return made  # type: ignore[no-any-return]
