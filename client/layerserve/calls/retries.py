"""Repeated calls: of unary methods that change nothing, when no server was available or a server was too busy.

gRPC repeats calls that got UNAVAILABLE, by the service config. It knows the time after which to repeat a call only by
metadata that one of the server's transports can't send, so calls that got RESOURCE_EXHAUSTED are repeated here.
"""

from __future__ import annotations

import random
from typing import Any

import grpc

from layerserve.calls.connection import Deadline
from layerserve.calls.methods import Method
from layerserve.calls.service_config import THROTTLE_RATIO, THROTTLE_TOKENS
from layerserve.errors import Overloaded, from_status

#: Calls that were refused together shouldn't return together: the longest part of the pause that is added to it.
JITTER = 0.2
#: Maximum pause, in seconds, for calls without a timeout.
LONGEST_PAUSE = 60.0


class Retries:
    """Decides which refused calls of a channel are repeated, and when.

    As in gRPC's retry throttling, a refusal takes a token, a success gives a part of one, and nothing is repeated
    unless more than half of the tokens are left: so an overloaded server isn't asked more often for it.
    """

    def __init__(self, most: int) -> None:
        """`most` is the maximum number of repetitions of a call."""
        self._most = most
        self._tokens = float(THROTTLE_TOKENS)

    def succeeded(self) -> None:
        """Counts a successful call."""
        if self._tokens < THROTTLE_TOKENS:
            self._tokens += THROTTLE_RATIO

    def pause(self, error: grpc.RpcError, method: Method[Any, Any], attempt: int, deadline: Deadline) -> float | None:
        """Returns the seconds to wait before a failed call is repeated; None if it isn't.

        `attempt` counts from 1. A call is repeated only if the server sent the time after which to repeat it, and if
        that is before the deadline.
        """
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or not method.repeatable:
            return None
        metadata: Any = error.trailing_metadata()  # pairs, of different types for the two kinds of channels
        refused = from_status(error.code(), error.details(), metadata)
        if not isinstance(refused, Overloaded) or refused.retry_after is None:
            return None
        self._tokens = max(0.0, self._tokens - 1)
        if attempt > self._most or self._tokens <= THROTTLE_TOKENS / 2:
            return None
        seconds = refused.retry_after * random.uniform(1, 1 + JITTER)
        return seconds if seconds <= LONGEST_PAUSE and deadline.leaves(seconds) else None
