"""A server of a folder whose models are trained in the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings


@contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """A client of the server. New versions are found at once, and runs have the priority of the test."""
    settings = Settings(
        path=folder, host="127.0.0.1", grpc_port=0, metrics_port=0, poll_seconds=0.1, drain_seconds=0, training_nice=0
    )
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
        yield client
