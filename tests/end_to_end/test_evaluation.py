"""Evaluate gives stock Keras's numbers under Keras's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from layerserve import Client, errors
from layerserve.cli import main
from layerserve_server.app import App
from small_runs import dense_data

SETTINGS: dict[str, Any] = {"loss": "categorical_crossentropy", "metrics": ["accuracy", "mae"]}


def stock(repository: Path, model: str, **settings: Any) -> Any:
    oracle = keras.models.load_model(repository / model / "1" / "model.keras", compile=False)
    oracle.compile(optimizer="sgd", **settings)
    return oracle


def test_numbers_and_names_are_keras(client: Client, repository: Path) -> None:
    x, y = dense_data(70)
    weight = np.linspace(0, 2, 70, dtype="float32")
    expected = stock(repository, "dense_keras", **SETTINGS).evaluate(
        x, y, sample_weight=weight, verbose=0, return_dict=True
    )
    got = client.evaluate("dense_keras", x, y, sample_weight=weight, version=1, **SETTINGS)
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*structure of `inputs`.*:UserWarning")
def test_several_outputs_and_a_last_partial_batch(client: Client, repository: Path) -> None:
    rng = np.random.default_rng(2)
    x = {
        "main_input": rng.integers(0, 50, (50, 12)).astype("int32"),
        "aux_input": rng.standard_normal((50, 5)).astype("float32"),
    }
    y = {name: rng.integers(0, 2, (50, 1)).astype("float32") for name in ("main_output", "aux_output")}
    settings: dict[str, Any] = {
        "loss": dict.fromkeys(y, "binary_crossentropy"),
        "loss_weights": {"main_output": 1.0, "aux_output": 0.2},
    }
    expected = stock(repository, "headline_keras", **settings).evaluate(
        x, y, batch_size=16, verbose=0, return_dict=True
    )
    got = client.evaluate("headline_keras", x, y, batch_size=16, version=1, **settings)
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-5)


def test_it_publishes_nothing_and_is_listed_as_what_it_is(client: Client) -> None:
    x, y = dense_data(8)
    before = client.models("dense_keras")
    client.evaluate("dense_keras", x, y, loss="mse", description="look")
    info = client.runs("dense_keras")[0]
    assert (info.kind, info.state, info.description, info.epochs) == ("evaluation", "finished", "look", 1)
    assert len(client.models("dense_keras")) == len(before)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"loss": "msee"}, errors.InvalidArgument, "msee.*mse"),
        ({"loss": "mse", "metrics": ["acuracy"]}, errors.InvalidArgument, "acuracy.*accuracy"),
        ({"loss": "mse", "y": np.zeros((8, 3))}, errors.InvalidArgument, "3.*10"),
        ({"loss": "mse", "x": np.zeros((8, 63))}, errors.InvalidArgument, "63.*64"),
        ({"loss": "sparse_categorical_crossentropy", "y": np.full(8, 10)}, errors.TrainingFailed, "10"),
    ],
)
def test_bad_input_is_told(client: Client, arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    x, y = dense_data(8)
    with pytest.raises(kind, match=text):
        client.evaluate("dense_here", **{"x": x, "y": y, **arguments})


def test_from_the_command_line(
    app: App, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = dense_data(20)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    monkeypatch.setenv("LAYERSERVE_ADDRESS", f"127.0.0.1:{app.grpc_port}")
    line = ["evaluate", "dense_here", "--x", f"{tmp_path}/d.npz:x", "--y", f"{tmp_path}/d.npz:y", "--json"]
    assert main([*line, "--loss", "mse"]) == 0
    assert json.loads(capsys.readouterr().out) == client.evaluate("dense_here", x, y, loss="mse")


@pytest.mark.filterwarnings("ignore:.*structure of `inputs`.*:UserWarning")
def test_the_loss_of_each_row_is_keras_of_this_row_alone(client: Client, repository: Path) -> None:
    rng = np.random.default_rng(2)
    x = {
        "main_input": rng.integers(0, 50, (9, 12)).astype("int32"),
        "aux_input": rng.standard_normal((9, 5)).astype("float32"),
    }
    y = {name: rng.integers(0, 2, (9, 1)).astype("float32") for name in ("main_output", "aux_output")}
    settings: dict[str, Any] = {
        "loss": dict.fromkeys(y, "binary_crossentropy"),
        "loss_weights": {"main_output": 1.0, "aux_output": 0.2},
    }
    oracle = stock(repository, "headline_keras", **settings)
    found = client.sample_losses("headline_keras", x, y, batch_size=4, version=1, **settings)
    assert list(found.losses) == ["loss", "main_output_loss", "aux_output_loss"]
    rows = [{name: array[row : row + 1] for name, array in x.items()} for row in range(9)]
    labels = [{name: array[row : row + 1] for name, array in y.items()} for row in range(9)]
    alone = [oracle.evaluate(*pair, verbose=0, return_dict=True) for pair in zip(rows, labels, strict=True)]
    for name, losses in found.losses.items():
        np.testing.assert_allclose(losses, [logs[name] for logs in alone], rtol=1e-4)
    assert found.logs == pytest.approx(client.evaluate("headline_keras", x, y, version=1, **settings), rel=1e-5)


def test_a_loss_without_losses_by_row_is_refused_before_the_data(client: Client) -> None:
    x, y = dense_data(8)
    before = client.runs()
    with pytest.raises(errors.InvalidArgument, match="loss 'Dice' has no losses by row"):
        client.sample_losses("dense_keras", x, y, version=1, loss="dice")
    assert client.runs() == before
    assert client.evaluate("dense_keras", x, y, version=1, loss="dice")
