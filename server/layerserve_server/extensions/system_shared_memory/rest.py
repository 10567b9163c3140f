"""The paths by which Triton's client registers regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.system_shared_memory.extension import METHOD
from layerserve_server.services.rest.json_text import field, object_of
from layerserve_server.services.rest.open_inference import shared_memory
from layerserve_server.transport.http.exchange import HttpRequest, HttpRoute


def routes() -> list[HttpRoute]:
    """Returns the routes."""
    return shared_memory("system", METHOD, _registered)


def _registered(request: HttpRequest) -> Mapping[str, Any]:
    """Returns the fields of SystemSharedMemoryRegisterRequest in a body. Raises InvalidRequestError."""
    body = object_of(request.body, ("key", "offset", "byte_size"), '{"key": ..., "byte_size": ...}')
    return {"key": field(body, "key", str, default=""), **{name: _size(body, name) for name in ("offset", "byte_size")}}


def _size(body: Mapping[str, Any], name: str) -> int:
    found: int = field(body, name, int, default=0)
    if not 0 <= found < 2**64:
        raise InvalidRequestError(f"{name}: got {found}, expected a number of bytes from 0 to 2^64 - 1")
    return found
