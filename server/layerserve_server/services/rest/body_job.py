"""The job that reads a long body.

The server sends {"infer": size of the JSON} or {"predict": true}, with the "size" of the body, and the body. The child
sends which outputs are in binary, or the outline, to which the server sends the dtypes and shapes of the inputs. Then
it replies {"message": size}, with the message behind it.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from layerserve_server.errors import InvalidRequestError
from layerserve_server.jobs.channel import Channel
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.predict_body import InputSpec, PredictBody

#: Maximum length of the names of inputs and outputs in a body, as JSON, in bytes.
MAX_NAMES = 1 << 16


def read_body(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job. Raises as `infer_body.read` and `PredictBody` do."""
    # A list of millions of lists would be looked through again and again.
    gc.disable()
    body = channel.read(arguments["size"])
    try:
        if "infer" in arguments:
            infer, wanted = infer_body.read(body, arguments["infer"])
            del body
            _send_names(channel, wanted._asdict())
            message = infer.SerializeToString()
        else:
            read = PredictBody(body)
            del body
            _send_names(channel, read.outline._asdict())
            specs = {name: InputSpec(*spec) for name, spec in channel.request().items()}
            message = read.message(specs)
    except UnicodeEncodeError as error:
        raise InvalidRequestError("the body: got a string with half of a surrogate pair, expected Unicode") from error
    channel.send({"message": len(message)})
    channel.send_bytes(message)
    return {}


def _send_names(channel: Channel, names: Mapping[str, Any]) -> None:
    if len(str(names)) > MAX_NAMES:
        raise InvalidRequestError("the body: got too many names of inputs or outputs")
    channel.send(names)
