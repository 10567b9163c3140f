"""Files in shared memory, and callers of servers that use them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from layerserve_server.app import App
from shared_memory_requests import Caller


@pytest.fixture
def shared() -> Iterator[Callable[..., Path]]:
    """Makes files of /dev/shm."""
    made = []

    def make(content: bytes = bytes(64)) -> Path:
        path = Path("/dev/shm") / f"layerserve-test-{uuid.uuid4().hex}"
        made.append(path)
        path.write_bytes(content)
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def caller(connect: Callable[[App], grpc.Channel]) -> Callable[..., Caller]:
    """Callers of servers, with a token or without."""
    return lambda app, token=None: Caller(connect(app), token)
