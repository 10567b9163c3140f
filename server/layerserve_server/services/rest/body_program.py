"""Program of the process that reads long bodies: it forks a child for each. It doesn't import torch.

The server sends {"infer": size of the JSON} or {"predict": true}, with the "size" of the body, and the body. The child
replies with which outputs are in binary, or with the outline, to which the server sends the dtypes and shapes of the
inputs. Then the child sends {"message": size} and the message. Errors are {"error", "kind"}.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import socket
import sys
from types import ModuleType
from typing import IO, Any

if __name__ == "__main__":
    # An empty package: the real one imports torch.
    _spec = importlib.util.find_spec("layergraph")
    assert _spec is not None
    _bare = ModuleType("layergraph")
    _bare.__path__ = list(_spec.submodule_search_locations or ())
    sys.modules["layergraph"] = _bare

from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.forking import forked
from layerserve_server.services.rest import infer_body
from layerserve_server.services.rest.predict_body import InputSpec, PredictBody

#: Maximum length of a message in either direction, in bytes.
MAX_LINE = 1 << 16
#: Added to the niceness of the server.
NICENESS = 5
TOO_MUCH = "the body: takes too much memory to read; send the tensors in binary"


def main() -> None:
    """Forks for each body, until the server closes the socket."""
    # Other requests come first.
    os.nice(NICENESS)
    gc.collect()
    gc.freeze()
    forked.serve(_handle)


def _handle(channel: socket.socket) -> None:
    """Reads the first message, and supervises the process that reads the body."""
    messages = channel.makefile("rb")
    if not (line := messages.readline()):
        return
    job = json.loads(line)
    forked.supervise(
        channel,
        lambda: _read(job, messages, channel),
        seconds=job["seconds"],
        memory_bytes=job["memory"],
        wall_seconds=job["seconds"],
    )


def _read(job: dict[str, Any], messages: IO[bytes], channel: socket.socket) -> None:
    def reply(message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise InvalidRequestError("the body: got too many names of inputs or outputs")
        channel.sendall(line)

    # A list of millions of lists would be looked through again and again.
    gc.disable()
    try:
        body = messages.read(job["size"])
        if "infer" in job:
            infer, wanted = infer_body.read(body, job["infer"])
            del body
            reply(wanted._asdict())
            message = infer.SerializeToString()
        else:
            read = PredictBody(body)
            del body
            reply(read.outline._asdict())
            if not (line := messages.readline()):
                return
            specs = {name: InputSpec(*spec) for name, spec in json.loads(line).items()}
            message = read.message(specs)
        reply({"message": len(message)})
        channel.sendall(message)
    except InvalidTensorError as error:
        reply({"error": str(error), "kind": "tensor"})
    except InvalidRequestError as error:
        reply({"error": str(error), "kind": "invalid"})
    except UnicodeEncodeError:
        reply({"error": "the body: got a string with half of a surrogate pair, expected Unicode", "kind": "invalid"})
    except MemoryError:
        reply({"error": TOO_MUCH, "kind": "invalid"})


if __name__ == "__main__":
    main()
