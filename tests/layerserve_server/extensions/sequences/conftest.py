"""Servers of a model that adds up its inputs, and callers of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from layerserve_server.app import App
from summed_sequences import Caller, SumModel


@pytest.fixture
def models() -> list[SumModel]:
    """The models that were loaded."""
    return []


@pytest.fixture
def put_sum(put: Callable[..., Path]) -> Callable[..., Path]:
    """Puts a version of the model "sum", and settings. Returns the version's folder."""

    def put_version(version: int = 1, settings: str = "[sequences]\n", **fields: Any) -> Path:
        folder = put("sum", version, json.dumps(fields)).parent
        if version == 1:
            (folder.parent / "layerserve.toml").write_text(settings)
        return folder

    return put_version


@pytest.fixture
def start_sum(start: Callable[..., App], models: list[SumModel]) -> Callable[..., App]:
    """Starts a server of such models."""

    def load(path: Path, settings: object = None) -> SumModel:
        models.append(SumModel(**json.loads(path.read_text())))
        return models[-1]

    def start_app(**settings: Any) -> App:
        return start(load=load, **settings)

    return start_app


@pytest.fixture
def calls(connect: Callable[[App], grpc.Channel]) -> Callable[..., Caller]:
    """Callers of servers, with a token or without."""
    return lambda app, token=None: Caller(connect(app), token)


@pytest.fixture
def table_of() -> Callable[[App], Any]:
    """The sequences of a server."""
    return lambda app: app._inference.predictor.steps._table
