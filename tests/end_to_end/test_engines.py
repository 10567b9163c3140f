"""Engines as a user meets them: the server tunes what it serves, says so, and refuses a pinned one that can't run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from layerserve import Client
from layerserve.cli import main
from layerserve_server.app import App
from layerserve_server.engines.tuning_process import TuningProcess
from layerserve_server.extensions.installed import Settings


def _save(path: Path) -> Any:
    entry = keras.Input((16,), name="x")
    model = keras.Model(entry, layers.Dense(4, activation="softmax")(layers.Dense(32, activation="relu")(entry)))
    path.parent.mkdir(parents=True)
    model.save(path)
    return model


def _serve(folder: Path, **settings: Any) -> App:
    return App(Settings(path=folder, grpc_port=0, metrics_port=-1, probe_files=False, **settings))


def _wait_until_tuned(client: Client) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        (info,) = client.models("dense")
        if info.engines:
            return info
        time.sleep(0.05)
    raise AssertionError("not tuned after a minute")


@pytest.fixture
def no_tuning(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of the process that tunes, which does nothing."""
    asked: list[Any] = []
    monkeypatch.setattr(TuningProcess, "tune", lambda *given: asked.append(given) or {})
    return asked


def test_a_server_tunes_says_what_it_chose_and_remembers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    stock = _save(tmp_path / "dense" / "1" / "model.keras")
    rows = np.random.default_rng(0).standard_normal((5, 16)).astype("float32")
    with _serve(tmp_path, tuning_seconds=20.0) as app, Client(f"localhost:{app.grpc_port}") as client:
        first = _wait_until_tuned(client)
        assert {choice.rows for choice in first.engines} == {1, 2, 8, 32}
        assert all("eager" in choice.milliseconds for choice in first.engines)
        np.testing.assert_allclose(client.predict("dense", rows), stock.predict_on_batch(rows), rtol=1e-5, atol=1e-6)
        assert main(["models", "--address", f"localhost:{app.grpc_port}"]) == 0
        assert first.engines[0].engine in capsys.readouterr().out
    asked = request.getfixturevalue("no_tuning")
    with _serve(tmp_path, tuning_seconds=20.0) as app, Client(f"localhost:{app.grpc_port}") as client:
        # From the first request on.
        assert client.models("dense")[0].engines == first.engines
        np.testing.assert_allclose(client.predict("dense", rows), stock.predict_on_batch(rows), rtol=1e-5, atol=1e-6)
    assert asked == []


def test_a_pinned_engine_computes_from_the_first_request_on(tmp_path: Path) -> None:
    stock = _save(tmp_path / "dense" / "1" / "model.keras")
    rows = np.random.default_rng(0).standard_normal((3, 16)).astype("float32")
    with _serve(tmp_path, engine="torchscript") as app, Client(f"localhost:{app.grpc_port}") as client:
        (info,) = client.models("dense")
        assert [choice.engine for choice in info.engines] == ["torchscript"]
        np.testing.assert_allclose(client.predict("dense", rows), stock.predict_on_batch(rows), rtol=1e-5, atol=1e-6)


def test_a_model_that_the_pinned_engine_cant_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    entry = keras.Input((4,), dtype="int32")
    (tmp_path / "quotient" / "1").mkdir(parents=True)
    keras.Model(entry, ops.floor_divide(entry, entry + 1)).save(tmp_path / "quotient" / "1" / "model.keras")
    with _serve(tmp_path, engine="torchscript") as app, Client(f"localhost:{app.grpc_port}") as client:
        (info,) = client.models("quotient")
        assert info.state == "failed"
        assert "setting 'engine': 'torchscript' can't run the model: " in info.reason


def test_inspect_shows_the_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerserve_server.extensions.model_files.inspection import inspect, text

    # Any times.
    monkeypatch.setattr("layergraph.execution.tuning.timing._ENOUGH_TURNS", 3)
    monkeypatch.setattr("layergraph.execution.tuning.timing._ENOUGH_SECONDS", 0.0)
    _save(tmp_path / "dense" / "model.keras")
    report = inspect(tmp_path / "dense" / "model.keras", engines=True)
    assert [choice["rows"] for choice in report["engines"]] == [1, 2, 8, 32]
    assert "  1 row: " in text(report)
    assert "eager" in text(report)


@pytest.mark.parametrize("tolerance", [0.05, 1e-7])
def test_less_precision_only_within_the_tolerances_of_the_proof(
    tmp_path: Path, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For so small a model int8 isn't faster.
    monkeypatch.setattr("layergraph.execution.tuning.precision.FLOAT32", {})
    stock = _save(tmp_path / "dense" / "1" / "model.keras")
    rows = np.random.default_rng(0).standard_normal((3, 16)).astype("float32")
    expected = stock.predict_on_batch(rows)
    proof = {"input/x": rows, "output/y": expected, "atol": np.array(tolerance), "rtol": np.array(0.0)}
    np.savez(tmp_path / "dense" / "1" / "golden.npz", **proof)
    with _serve(tmp_path, precision="int8") as app, Client(f"localhost:{app.grpc_port}") as client:
        (info,) = client.models("dense")
        answer = client.predict("dense", rows)
    if tolerance > 1e-3:
        assert [choice.rows for choice in info.engines] == [1, 8, 32]
        assert all(choice.engine.startswith("int8-") for choice in info.engines)
        assert all(0 < choice.difference < tolerance for choice in info.engines)
        # Three rows are nearer to eight than to one.
        np.testing.assert_allclose(np.abs(answer - expected).max(), info.engines[1].difference, rtol=1e-3)
    else:
        assert not info.engines
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
