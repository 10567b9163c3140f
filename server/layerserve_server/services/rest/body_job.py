"""The job that reads a long body.

The function `read_long` of the module `reader` is called with the body, the channel, on which it may exchange further
messages with the server, and the `options`. It returns a message, which is sent behind {"message": size}.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from layerserve_server.errors import InvalidRequestError
from layerserve_server.jobs.channel import Channel

#: Maximum length of what is sent about a body, in bytes.
MAX_OUTLINE = 1 << 16


def read_body(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job. Raises as the reader does."""
    # A list of millions of lists would be looked through again and again.
    gc.disable()
    reader = import_module(arguments["reader"])
    try:
        message = reader.read_long(channel.read(arguments["size"]), channel, **arguments["options"])
    except UnicodeEncodeError as error:
        text = "the body: got a string with half of a surrogate pair, expected Unicode"
        raise InvalidRequestError(text) from error
    channel.send({"message": len(message)})
    channel.send_bytes(message)
    return {}


def send_outline(channel: Channel, outline: object) -> None:
    """Sends what the server has to know of a body. Raises InvalidRequestError if it is too long."""
    if len(json.dumps(outline)) > MAX_OUTLINE:
        raise InvalidRequestError("the body: got too many names of inputs or outputs")
    channel.send(outline)
