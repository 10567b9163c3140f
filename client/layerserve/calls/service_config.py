"""gRPC's service config: which calls are repeated, and how calls are balanced over several servers."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from layerserve.calls.methods import METHODS
from layerserve.errors import InvalidArgument

#: How calls are spread over the addresses of a server's name: in turns, or all to the first that can be reached.
LoadBalancing = Literal["round_robin", "pick_first"]

#: Maximum number of repetitions of a call, which is gRPC's own limit.
MAX_RETRIES = 4

#: Retry throttling. A call that fails takes a token, a success gives a part of one, and nothing is repeated unless more
#: than half of the tokens are left. They are many, so that all calls to a server that was killed can be repeated.
THROTTLE_TOKENS = 200
THROTTLE_RATIO = 0.1


def service_config(retries: int, load_balancing: LoadBalancing, *, health: bool) -> str:
    """Returns the service config as JSON.

    `retries` is the maximum number of repetitions of a call. With `health` (and "round_robin"), a server that reports
    NOT_SERVING, such as one that is draining, gets no calls. Raises InvalidArgument if a value is invalid.
    """
    if not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES:
        raise InvalidArgument(f"retries: got {retries!r}, expected 0 to {MAX_RETRIES}")
    if load_balancing not in get_args(LoadBalancing):
        expected = " or ".join(map(repr, get_args(LoadBalancing)))
        raise InvalidArgument(f"load_balancing: got {load_balancing!r}, expected {expected}")
    config: dict[str, Any] = {"loadBalancingConfig": [{load_balancing: {}}]}
    if health:
        # The empty name is the server as a whole.
        config["healthCheckConfig"] = {"serviceName": ""}
    if retries:
        names = [{"service": method.service, "method": method.name} for method in METHODS if method.repeatable]
        config["methodConfig"] = [{"name": names, "retryPolicy": _policy(retries)}]
        config["retryThrottling"] = {"maxTokens": THROTTLE_TOKENS, "tokenRatio": THROTTLE_RATIO}
    return json.dumps(config)


def _policy(retries: int) -> dict[str, Any]:
    """Returns the policy of retries: with the maximum number of them, for about two seconds."""
    return {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
