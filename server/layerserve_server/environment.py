"""Environment variables with the prefix LAYERSERVE_: settings, those of the client's CLI, and those of Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from layerserve.cli import variables

#: Prefix of all variables of layerserve.
PREFIX = "LAYERSERVE_"

#: Variables that Kubernetes sets in each pod (unless `enableServiceLinks` is false) for services of its namespace whose
#: names begin with "layerserve": LAYERSERVE_SERVICE_HOST, LAYERSERVE_SERVICE_PORT_GRPC, LAYERSERVE_PORT_8500_TCP_ADDR.
_OF_SERVICES = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
#: Value of the Kubernetes variable LAYERSERVE_PORT=tcp://10.0.0.1:8500. For a service "layerserve-metrics" the variable
#: has the name of a setting, and is distinguished by the value.
_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)


def of_kubernetes(name: str, value: str | None) -> bool:
    """Whether a variable was set by Kubernetes for a service."""
    upper = name.upper()
    if _OF_SERVICES.fullmatch(upper):
        return True
    return upper.startswith(PREFIX) and upper.endswith("_PORT") and _ADDRESS.fullmatch(value or "") is not None


def unknown(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Returns the variables with the prefix that are neither settings nor the CLI's: most likely misspelled ones."""
    known = {PREFIX + name.upper() for name in settings}.union(variables.ALL)
    return sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(PREFIX) and name.upper() not in known and not of_kubernetes(name, value)
    )
