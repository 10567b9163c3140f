"""Losses by row with both clients, and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layerserve.cli import main
from layerserve.training.sample_losses import SampleLosses

X, Y = np.arange(36.0).reshape(12, 3), np.arange(12)


def test_losses_are_arrays_in_the_order_of_the_rows(client, server):
    found = client.sample_losses("double", X, Y, loss="mse", batch_size=5)
    assert found.losses["loss"].tolist() == list(range(12))
    assert found.losses["loss"].dtype == np.float32
    assert found.logs == {"loss": 1.0}
    assert found.worst(3).tolist() == [11, 10, 9]
    run = server.runs[found.run_id]
    assert run.spec.sample_losses
    assert run.spec.batch_size == 5
    client.evaluate("double", X, Y, loss="mse")
    assert not list(server.runs.values())[-1].spec.sample_losses


def test_a_loss_that_is_nan_is_among_the_worst():
    losses = SampleLosses(
        "a", {}, {"loss": np.array([1.0, np.nan, 3.0, 3.0]), "b_loss": np.array([1.0, 0.0, 0.0, 2.0])}
    )
    assert losses.worst().tolist() == [1, 2, 3, 0]
    assert losses.worst(2, "b_loss").tolist() == [3, 0]


@pytest.fixture
def line(server, tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    data = f"{tmp_path}/data.npz"
    return ["evaluate", "double", "--x", f"{data}:x", "--y", f"{data}:y", "--address", server.address]


def test_the_worst_rows_are_shown_and_losses_saved(line, tmp_path, capsys):
    assert main([*line, "--worst", "2", "--losses", str(tmp_path / "losses.npz"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["worst"] == [{"row": 11, "loss": 11.0}, {"row": 10, "loss": 10.0}]
    assert np.load(tmp_path / "losses.npz")["loss"].tolist() == list(range(12))
    assert main([*line, "--worst", "2"]) == 0
    assert "Highest losses" in capsys.readouterr().out
    assert main([*line, "--losses", str(tmp_path / "more.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": 1.0}
