"""Text through a real server, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layerserve import Client, ServerFile, errors
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings


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


WORDS = ["good", "bad", "film", "fun"]
TEXTS = ["good film", "bad film", "fun", "bad, bad", "good fun", "film"] * 4
LABELS = np.array([1, 0, 1, 0, 1, 0] * 4, np.float32)


@pytest.fixture(scope="module", name="classifier")
def _classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Client]]:
    """A server of a compiled text classifier, whose folder of data files has TEXTS."""
    folder = tmp_path_factory.mktemp("text")
    text = layergraph.Input((1,), dtype="string", name="text")
    words = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=3, name="words")(text)
    vectors = layers.Conv1D(4, 3, name="windows")(layers.Embedding(6, 4, name="vectors")(words))
    answer = layers.Dense(1, activation="sigmoid", name="answer")(layers.GlobalAveragePooling1D(name="mean")(vectors))
    model = layergraph.Model(text, answer)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    path = folder / "models" / "reviews" / "1" / "model.keras"
    path.parent.mkdir(parents=True)
    model.save(path)
    data = folder / "data"
    data.mkdir()
    np.savez_compressed(data / "all.npz", text=np.array(TEXTS)[:, None], label=LABELS)
    settings = Settings(
        path=folder / "models", host="127.0.0.1", grpc_port=0, metrics_port=0, drain_seconds=0, data_root=data
    )
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield path, client


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.array(TEXTS), LABELS),
        (ServerFile("all.npz", "text"), ServerFile("all.npz", "label")),
    ],
    ids=["sent", "npz"],
)
def test_a_text_classifier_is_trained_where_it_is_served(classifier: tuple[Path, Client], x: Any, y: Any) -> None:
    path, client = classifier
    here = layergraph.load_model(path)
    expected = here.fit(TEXTS, LABELS, batch_size=5, epochs=3, seed=3, validation_split=0.25, verbose=0).history
    run = client.train(
        "reviews", x, y, version=1, batch_size=5, epochs=3, seed=3, validation_split=0.25, publish=True
    ).wait()
    for name, values in expected.items():
        np.testing.assert_allclose(run.history[name], values, rtol=1e-5, err_msg=name)
    got = client.predict("reviews", np.array(TEXTS[:6])[:, None], version=run.version)
    np.testing.assert_allclose(got, here.predict(TEXTS[:6]), atol=1e-6)
    logs = client.evaluate("reviews", x, y, version=run.version)
    np.testing.assert_allclose(logs["loss"], here.evaluate(TEXTS, LABELS, verbose=0)[0], rtol=1e-5)


def test_text_where_numbers_are_expected(classifier: tuple[Path, Client]) -> None:
    _, client = classifier
    with pytest.raises(errors.LayerserveError, match="text"):
        client.train("reviews", np.zeros((24, 1), np.float32), LABELS)
    with pytest.raises(errors.LayerserveError, match="y 'answer': got dtype string, expected numbers"):
        client.train("reviews", TEXTS, np.array(["yes"] * 24))
