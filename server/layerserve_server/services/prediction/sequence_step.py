"""A request that is a step of a sequence, and what computes it: an extension, if it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from layerserve_server.transport.call import Call

if TYPE_CHECKING:
    from layerserve_server.services.prediction.predict_protocol import PredictionRequest

#: Maximum length of the id of a sequence that is a text, in characters.
MAX_ID = 256


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Which sequence a request belongs to. A number and a text are different ids."""

    #: Empty for the sequence of the stream on which the request came.
    id: int | str
    start: bool = False
    end: bool = False


class StepTaker(Protocol):
    """Computes requests that are steps of sequences."""

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """Answers a call whose caller wasn't asked for rights yet; never blocks. Raises an error if it is invalid.

        With `here`, a quick model runs in this thread, after all calls of the event batch were queued.
        """
