"""A fake server with a few models, and clients of it."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from blocking import BLOCKING, Blocking
from layerserve import AsyncClient, Client, LayerNode, LayerNodes, NodeTensor, TensorSpec
from layerserve.calls.methods import Method
from layerserve.cli import main
from layerserve.testing import FakeServer
from sent_requests import recorded_requests


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        add_models(running)
        yield running


@pytest.fixture
def answer(server: FakeServer) -> Callable[[Method[Any, Any], Callable[[Any, Any], Any]], None]:
    """Make the server answer an RPC that it doesn't have: `answer(method, function of request and context)`."""

    def add(method: Method[Any, Any], function: Callable[[Any, Any], Any]) -> None:
        kind = grpc.unary_stream_rpc_method_handler if method.streams_replies else grpc.unary_unary_rpc_method_handler
        handler = kind(function, method.request.FromString, method.reply.SerializeToString)
        server._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(method.service, {method.name: handler}),)
        )

    return add


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Call a method in a folder with files: gives the first request of an RPC, as values by the paths of its fields."""
    for name in ("m.keras", "g.npz", "s.toml", "d.csv"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return recorded_requests(monkeypatch)


@pytest.fixture
def client(request: pytest.FixtureRequest, server: FakeServer) -> Iterator[Any]:
    """A client of the server: the blocking one, but for tests marked with `both_clients`."""
    if getattr(request, "param", BLOCKING) == BLOCKING:
        with Client(server.address, timeout=20) as client:
            yield client
        return
    loop = asyncio.new_event_loop()
    wrapped = Blocking(AsyncClient(server.address, timeout=20), loop)
    yield wrapped
    wrapped.close()
    loop.close()


@pytest.fixture
def cli(server, capsys, monkeypatch, tmp_path):
    """Run a command line in a folder of its own: gives (status, standard output, standard error)."""
    monkeypatch.setenv("LAYERSERVE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def run(line, stdin=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        status = main(line.split())
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def add_models(server: FakeServer) -> None:
    x = TensorSpec("x", (None, 3), "float32")
    y = TensorSpec("y", (None, 3), "float32")
    server.add_model("double", lambda a: {"y": 2 * a["x"]}, [x], [y], labels=["stable"], file=bytes(range(256)) * 20)
    server.add_model(
        "two",
        lambda a: {"sum": a["left"] + a["right"], "ids": a["left"].astype(np.int64), "hidden": a["left"]},
        [TensorSpec("left", (None, 2), "float32"), TensorSpec("right", (None, 2), "int32")],
        [TensorSpec("sum", (None, 2), "float32"), TensorSpec("ids", (None, 2), "int64")],
    )
    server.add_model("broken", lambda a: {}, [], [], state="failed", reason="file is truncated")
    server.add_model("shared", lambda a: {}, [], [], layers=shared_layers())


def shared_layers() -> list[LayerNodes]:
    """Two inputs of different sizes through one convolution, whose results are added; and a layer without a call."""

    def tensor(layer: str, node: int, shape: tuple[int | None, ...], argument: str = "") -> NodeTensor:
        return NodeTensor(layer, node, 0, shape, "float32", argument, masked=False)

    small, large = (None, 8, 8, 3), (None, 16, 16, 3)
    out_small, out_large = (None, 8, 8, 4), (None, 16, 16, 4)
    return [
        LayerNodes("a", "a", "InputLayer", (LayerNode(0, (), (tensor("a", 0, small),)),), 0, True),
        LayerNodes(
            "conv",
            "conv",
            "Conv2D",
            (
                LayerNode(0, (tensor("a", 0, small, "inputs"),), (tensor("conv", 0, out_small),)),
                LayerNode(1, (tensor("b", 0, large, "inputs"),), (tensor("conv", 1, out_large),)),
            ),
            112,
            True,
        ),
        LayerNodes(
            "add",
            "add",
            "Add",
            (
                LayerNode(
                    0,
                    (tensor("conv", 0, out_small, "inputs[0]"), tensor("conv", 0, out_small, "inputs[1]")),
                    (tensor("add", 0, out_small),),
                ),
            ),
            0,
            True,
        ),
        LayerNodes("unused", "unused", "Dense", (), 5, True),
    ]
