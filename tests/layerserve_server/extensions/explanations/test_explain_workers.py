"""Explanations by a server of two processes: only one computes them, for the callers of both."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve import Client

PAIR = np.array([[2.0, 3.0]], "float32")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server with a model that has a canary."""
    folder = tmp_path / "models" / "m"
    for version, factor in ((1, 1.0), (2, 100.0)):
        x = Input((2,), name="x")
        (folder / str(version)).mkdir(parents=True)
        Model(x, layers.Rescaling(factor, name="y")(x)).save(folder / str(version) / "model.keras")
    (folder / "layerserve.toml").write_text('default_version = 1\ncanary = "50 %"\n')
    (folder / "labels.json").write_text('{"canary": 2}')
    options = ["--workers", "2", "--no-warm-training", "--state", str(tmp_path / "state"), "--host", "127.0.0.1"]
    options += ["--grpc-port", "0", "--metrics-port", "-1", "--drain-seconds", "0", "--tuning-seconds", "0"]
    command = [sys.executable, "-m", "layerserve_server", str(tmp_path / "models"), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield next(int(found[1]) for line in process.stderr if (found := re.search(r"gRPC on \S+:(\d+)", line)))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_each_process_chooses_the_version_of_a_prediction(port: int) -> None:
    chosen = set()
    for key in "abcdefgh":
        # Each connection is of any of the processes. Without a key it is the address of the client that counts.
        for named in (key, None):
            with Client(f"127.0.0.1:{port}", timeout=120) as client:
                found = client.explain("m", PAIR, 1, n_steps=1, key=named)
                assert found.outputs.tolist() == client.predict("m", PAIR, key=named)[:, 1].tolist()
                assert found.outputs.tolist() == [3 * 100 ** (found.version - 1)]
                assert found.attributions.tolist() == [[0, found.outputs[0]]]
            chosen.add(found.version)
    assert chosen == {1, 2}
