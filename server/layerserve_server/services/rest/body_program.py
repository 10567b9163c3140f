"""Program of the process that reads long bodies: it forks a child for each. It doesn't import torch.

The server sends the "reader", a module of the program's arguments, its "options", the "size" of the body, and the body.
The reader's function `read_long` may exchange further lines with the server. Then the child sends {"message": size} and
the message. Errors are {"error", "kind"}.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import socket
import sys
from importlib import import_module
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
from layerserve_server.services.rest.body_talk import Talk

#: Index of the first reader in the arguments, after the seconds that `forked.serve` reads.
FIRST_READER = 2
#: Added to the niceness of the server.
NICENESS = 5
TOO_MUCH = "the body: takes too much memory to read; send the tensors in binary"


def main() -> None:
    """Forks for each body, until the server closes the socket."""
    for reader in sys.argv[FIRST_READER:]:
        import_module(reader)
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
    talk = Talk(messages, channel)
    # A list of millions of lists would be looked through again and again.
    gc.disable()
    try:
        message = sys.modules[job["reader"]].read_long(messages.read(job["size"]), talk, **job["options"])
        talk.send({"message": len(message)})
        channel.sendall(message)
    except InvalidTensorError as error:
        talk.send({"error": str(error), "kind": "tensor"})
    except InvalidRequestError as error:
        talk.send({"error": str(error), "kind": "invalid"})
    except UnicodeEncodeError:
        text = "the body: got a string with half of a surrogate pair, expected Unicode"
        talk.send({"error": text, "kind": "invalid"})
    except MemoryError:
        talk.send({"error": TOO_MUCH, "kind": "invalid"})


if __name__ == "__main__":
    main()
