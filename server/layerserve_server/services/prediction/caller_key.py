"""The key by which a caller is recognized again, over all of its calls and connections."""

from __future__ import annotations

from typing import Final

from layerserve_server.transport.call import Call
from layerserve_server.transport.client_address import host_of

#: Metadata with which a caller gives its key, such as the id of a user whom it serves.
KEY: Final = "layerserve-key"


def caller_key(call: Call) -> str:
    """Returns the key in the call's metadata, or else the name of its token or certificate, or else its address."""
    for name, value in call.metadata:
        if name == KEY and isinstance(value, str):
            return f"key {value}"
    caller = call.caller
    return f"name {caller.name}" if caller.named else f"address {host_of(str(call.client()), call.metadata)}"
