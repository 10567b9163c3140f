"""Outputs with complex numbers, as a TensorFlow operation gives them, through a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from layergraph import load_model
from layerserve import Client, InvalidTensor, LayerserveError
from serving import serving

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tensorflow_operations" / "operations_0.h5"


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("complex")
    shutil.copy(FIXTURE, folder / "complex.h5")
    with serving(folder) as client:
        yield client


def inputs() -> dict[str, np.ndarray]:
    names = load_model(FIXTURE).input_names
    with np.load(FIXTURE.with_suffix(".npz")) as arrays:
        return {name: arrays[f"input_{number}"] for number, name in enumerate(names)}


def test_they_are_listed_described_and_predicted(client: Client) -> None:
    """A dtype that the list of models didn't have made the list fail for all models."""
    expected = load_model(FIXTURE).plan().run(inputs())
    (info,) = client.models()
    dtypes = {spec.name: spec.dtype for spec in info.outputs}
    assert dtypes == {name: array.dtype.name for name, array in expected.items()}
    assert "complex64" in dtypes.values()
    nodes = [node for layer in client.node_shapes("complex").values() for node in layer.nodes]
    assert "complex64" in {tensor.dtype for node in nodes for tensor in node.outputs}
    got = client.predict("complex", inputs())
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


def test_inputs_have_none(client: Client) -> None:
    given = {name: array.astype("complex64") for name, array in inputs().items()}
    with pytest.raises(InvalidTensor, match="got dtype complex64, expected float32"):
        client.predict("complex", given)


def test_targets_have_none(client: Client) -> None:
    targets = {spec.name: np.ones((2, *spec.shape[1:]), "complex64") for spec in client.model("complex").outputs}
    with pytest.raises(LayerserveError, match="complex"):
        client.train("complex", inputs(), targets, loss="mse", epochs=1)
