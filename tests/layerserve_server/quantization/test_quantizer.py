"""Graphs are quantized by another process, and no graph does any harm."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.execution.tuning.precision import _write
from layerserve_server.quantization import program
from layerserve_server.quantization.quantizer import QuantizationError, Quantizer


@pytest.fixture
def quantizer() -> Iterator[Quantizer]:
    made = Quantizer()
    yield made
    made.close()


def test_a_graph_is_quantized_and_a_damaged_one_refused(tmp_path: Path, quantizer: Quantizer) -> None:
    pytest.importorskip("onnxruntime")
    entry = Input((8, 8, 2), name="x")
    plan = Model(entry, layers.Conv2D(3, 3, name="y")(entry)).plan()
    rows = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype("float32")
    _write(plan, [rows], 1, tmp_path, shared=True)
    quantizer.quantize(tmp_path)
    assert (tmp_path / "static.onnx").stat().st_size > 0
    (tmp_path / "float32.onnx").write_bytes(b"no graph\n")
    with pytest.raises(QuantizationError):
        quantizer.quantize(tmp_path)


class Replying(Quantizer):
    """Gets a reply without a process."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self._answer = reply

    @contextmanager
    def connection(self, seconds: float) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(self._answer)
            theirs.shutdown(socket.SHUT_WR)
            yield ours


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"", "sent no reply"),
        (b"{", "sent no reply"),
        (b"[1]\n", "sent no reply"),
        (b'{"error": "bad\\nshape"}\n', r"^bad\\nshape$"),
        (b'{"died": 24, "late": false}\n', "takes too long"),
        (b'{"died": 9, "late": true}\n', "takes too long"),
        (b'{"died": 6, "late": false}\n', r"too much memory, or crashes \(SIGABRT\)"),
        (b'{"died": 0, "late": false}\n', r"too much memory, or crashes \(no signal\)"),
        (b'{"died": 6000, "late": false}\n', "sent no reply"),
    ],
)
def test_whatever_the_other_process_replies_is_an_error_of_this_graph(reply: bytes, problem: str) -> None:
    with pytest.raises(QuantizationError, match=problem):
        Replying(reply).quantize(Path("folder"))


def test_a_graph_gets_memory_by_its_size_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(program.forked, "supervise", lambda channel, work, **limits: given.append(limits))
    (tmp_path / "float32.onnx").write_bytes(bytes(1000))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(json.dumps({"folder": str(tmp_path)}).encode() + b"\n")
        program._handle(theirs)
    assert given == [{"seconds": 1200.0, "memory_bytes": (4 << 30) + 16_000, "wall_seconds": 1800.0}]


def test_graphs_are_quantized_at_a_lower_priority_than_that_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(program.os, "nice", done.append)
    monkeypatch.setattr(program.forked, "serve", done.append)
    program.main()
    assert done == [5, program._handle]
