"""Environment variables of the CLI, and those with the same prefix that aren't: the server's settings, Kubernetes's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

#: Prefix of all variables of layerserve.
PREFIX = "LAYERSERVE_"

ADDRESS = "LAYERSERVE_ADDRESS"
TOKEN = "LAYERSERVE_TOKEN"
TOKEN_FILE = "LAYERSERVE_TOKEN_FILE"
TLS = "LAYERSERVE_TLS"
CA = "LAYERSERVE_CA"
CERT = "LAYERSERVE_CERT"
KEY = "LAYERSERVE_KEY"

#: The CLI's variables. The server ignores them.
ALL = (ADDRESS, TOKEN, TOKEN_FILE, TLS, CA, CERT, KEY)

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


def unknown(environment: Mapping[str, str], others: Iterable[str] = ()) -> list[str]:
    """Returns the variables with the prefix that are neither the CLI's nor among `others`: most likely misspelled."""
    known = {*ALL, *others}
    return sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(PREFIX) and name.upper() not in known and not of_kubernetes(name, value)
    )


def misspelled(environment: Mapping[str, str], settings: Collection[str] | None) -> list[str]:
    """Returns an error for each variable that is most likely a misspelled one.

    `settings` are the names of the server's; None if its package isn't installed. Then only variables that resemble
    one of the CLI's are errors, as any other may be a setting.
    """
    errors = []
    for name in unknown(environment, settings or ()):
        if near := difflib.get_close_matches(name.upper(), [*ALL, *(settings or ())], n=1, cutoff=0.85):
            errors.append(f"environment: unknown setting {name!r}; did you mean {near[0]!r}?")
        elif settings is not None:
            errors.append(f"environment: unknown setting {name!r}")
    return errors
