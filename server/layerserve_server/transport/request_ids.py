"""Ids by which a request is found again in logs: sent by the client, or given to a call that fails."""

from __future__ import annotations

import re
import secrets
from typing import Final

from layerserve_server.access.gate import Pairs

#: Metadata of a request's id, in both directions.
KEY: Final = "x-request-id"
#: Ids go into log lines and back to the client: printable ASCII, without spaces and quotes.
_VALID: Final = re.compile(r"[A-Za-z0-9._:/+=@~#,-]{1,128}")


def sent_id(metadata: Pairs) -> str:
    """Returns the id in a client's metadata; empty if there is none or it isn't valid."""
    for key, value in metadata:
        if key == KEY:
            return value if isinstance(value, str) and _VALID.fullmatch(value) else ""
    return ""


def echo(metadata: Pairs) -> tuple[tuple[str, str], ...]:
    """Returns the trailing metadata of a successful call: the id that the client sent, if any."""
    found = sent_id(metadata)
    return ((KEY, found),) if found else ()


def id_of(metadata: Pairs) -> str:
    """Returns the id in a client's metadata, or else a new one."""
    return sent_id(metadata) or secrets.token_hex(8)
