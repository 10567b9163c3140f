"""Text through a real server, in both directions."""

from __future__ import annotations

from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layerserve import Client, errors
from layerserve_server.app import App
from layerserve_server.settings import Settings


def test_text_goes_to_a_model_and_comes_back(tmp_path: Path) -> None:
    words = layergraph.Input((1,), dtype="string", name="words")
    places = layers.StringLookup(vocabulary=["ja", "über"], name="places")(words)
    back = layers.StringLookup(vocabulary=["ja", "über"], invert=True, name="back")(places)
    counts = layers.TextVectorization(vocabulary=["ja", "nein"], output_mode="count", name="counts")(words)
    (tmp_path / "text" / "1").mkdir(parents=True)
    layergraph.Model(words, [places, back, counts]).save(tmp_path / "text" / "1" / "model.keras")
    settings = Settings(path=tmp_path, host="127.0.0.1", grpc_port=0, metrics_port=0, drain_seconds=0)
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        results = client.predict_named("text", {"words": np.array([["über"], ["Nein, ja!"]])})
        assert results["places"].tolist() == [[2], [0]]
        assert [item.decode() for item in results["back"].ravel()] == ["über", "[UNK]"]
        assert results["counts"].tolist() == [[1, 0, 0], [0, 1, 1]]
        with pytest.raises(errors.LayerserveError, match="words"):
            client.predict_named("text", {"words": np.array([[1.0]])})
