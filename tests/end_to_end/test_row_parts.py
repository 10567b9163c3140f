"""Predictions whose rows are sent in several requests give what one request gives, or are refused."""

from __future__ import annotations

from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph import ops
from layerserve import Client, InvalidArgument

ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
HEADLINE = {"main_input": np.arange(60).reshape(5, 12), "aux_input": np.arange(25).reshape(5, 5) / 25}


def test_parts_give_what_one_request_gives(client: Client) -> None:
    whole = client.predict_named("headline_here", HEADLINE)
    parts = client.predict_named("headline_here", HEADLINE, batch_size=2)
    assert (list(parts), parts.version) == (list(whole), whole.version)
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, atol=1e-6)
    hidden = client.predict("dense_here", np.ones((5, 64)), outputs="dense_1", batch_size=2)
    np.testing.assert_allclose(hidden, client.predict("dense_here", np.ones((5, 64)), outputs="dense_1"), atol=1e-6)


@pytest.mark.parametrize("shape", ["open", "fixed"])
def test_rows_that_depend_on_one_another_are_sent_at_once(client: Client, repository: Path, shape: str) -> None:
    """As in a model that compares the rows of a batch, and in one whose batches have a fixed size."""
    x = layergraph.Input(batch_shape=(None if shape == "open" else 5, 3), name="x")
    y = ops.subtract(x, ops.mean(x, axis=0, keepdims=True)) if shape == "open" else layergraph.layers.ReLU()(x)
    path = repository.parent / f"{shape}_rows.keras"
    layergraph.Model(x, y).save(path)
    folder = repository / f"{shape}_rows" / "1"
    folder.mkdir(parents=True)
    path.rename(folder / "model.keras")
    client.wait_until_ready(model=f"{shape}_rows")
    assert not client.model(f"{shape}_rows").independent_rows
    assert client.model("dense_here").independent_rows
    with pytest.raises(InvalidArgument, match="its outputs aren't computed row by row"):
        client.predict(f"{shape}_rows", ROWS, batch_size=2)
    expected = ROWS - ROWS.mean(0) if shape == "open" else np.maximum(ROWS, 0)
    np.testing.assert_allclose(client.predict(f"{shape}_rows", ROWS, batch_size=5), expected, atol=1e-6)
