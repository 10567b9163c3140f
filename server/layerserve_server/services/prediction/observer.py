"""Observers of requests: they see the arrays and results of some requests, and never delay or change an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from layerserve_server.inference.queue import Arrays
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs

#: Called after the answer was given, with the names of its outputs. The results are None if the answer is an error.
Answered: TypeAlias = Callable[[LoadedVersion, tuple[str, ...], Arrays | None], None]
#: Called with what a request asks for, its arrays, its id and its owner, before it is queued. None if nobody waits for
#: the answer.
Watch: TypeAlias = Callable[[RequestedOutputs, Arrays, str, str], Answered | None]


class RequestObserver(Protocol):
    """Chooses the requests that it observes."""

    def watch(self, choice: Choice) -> Watch | None:
        """Returns what watches a request for this model, version or label; None for one that isn't observed.

        Called once for each request, in the thread that receives it: it must be quick.
        """
