"""Environment variables that begin with LAYERSERVE_: settings, the command line's, and those that Kubernetes sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from layerserve.cli import variables

#: What an environment variable's name begins with.
PREFIX = "LAYERSERVE_"

#: What Kubernetes sets in each pod for the services of its namespace whose names begin with "layerserve" (unless
#: `enableServiceLinks` is false): LAYERSERVE_SERVICE_HOST, LAYERSERVE_SERVICE_PORT_GRPC, LAYERSERVE_PORT_8500_TCP_ADDR.
_OF_SERVICES = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
#: And LAYERSERVE_PORT=tcp://10.0.0.1:8500, which of a service "layerserve-metrics" has the name of a setting: the value
#: tells them apart.
_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)


def of_kubernetes(name: str, value: str | None) -> bool:
    """Whether Kubernetes has set a variable, for a service."""
    upper = name.upper()
    if _OF_SERVICES.fullmatch(upper):
        return True
    return upper.startswith(PREFIX) and upper.endswith("_PORT") and _ADDRESS.fullmatch(value or "") is not None


def unknown(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Variables with the prefix of settings that are neither settings nor the command line's: most likely misspelt."""
    known = {PREFIX + name.upper() for name in settings}.union(variables.ALL)
    return sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(PREFIX) and name.upper() not in known and not of_kubernetes(name, value)
    )
