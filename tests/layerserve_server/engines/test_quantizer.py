"""Graphs are quantized by another process, and no graph does any harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jobs_without_processes import Replying
from layergraph import Input, Model, layers
from layergraph.execution.tuning.precision import _write
from layerserve_server.engines.quantizer import QuantizationError, quantize
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits


def test_a_graph_is_quantized_and_a_damaged_one_refused(tmp_path: Path, jobs: Jobs) -> None:
    pytest.importorskip("onnxruntime")
    entry = Input((8, 8, 2), name="x")
    plan = Model(entry, layers.Conv2D(3, 3, name="y")(entry)).plan()
    rows = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype("float32")
    _write(plan, [rows], 1, tmp_path, shared=True)
    quantize(jobs, tmp_path)
    assert (tmp_path / "static.onnx").stat().st_size > 0
    (tmp_path / "float32.onnx").write_bytes(b"no graph\n")
    with pytest.raises(QuantizationError):
        quantize(jobs, tmp_path)


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
def test_whatever_the_other_process_replies_is_an_error_of_this_graph(
    tmp_path: Path, reply: bytes, problem: str
) -> None:
    with pytest.raises(QuantizationError, match=problem):
        quantize(Replying(reply), tmp_path)


def test_a_graph_gets_memory_by_its_size_and_limits(tmp_path: Path) -> None:
    (tmp_path / "float32.onnx").write_bytes(bytes(1000))
    jobs = Replying(b"{}\n")
    quantize(jobs, tmp_path)
    assert jobs.limits_given == [JobLimits(1200.0, (4 << 30) + 16_000, wall_seconds=1800.0)]
