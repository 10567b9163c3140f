"""Versions whose engines are kept, as tuning keeps them where the engine is the fastest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from layergraph import Model, load_model
from layerserve_server.disk import sha256
from layerserve_server.engines.chosen_engines import ChosenEngines, default_threads
from layerserve_server.engines.model_loader import kept_models
from layerserve_server.settings.settings import Settings


def keep_engines(settings: Settings, path: Path, engine: str = "onnxruntime") -> Model:
    """Keeps what a server with these settings needs to answer for a model file by an engine. Returns the model."""
    model = load_model(path)
    models = kept_models(settings)
    assert models is not None

    def make(folder: Path) -> None:
        model.plan().tune(engines=(engine,), pin=True, threads=default_threads(), shared=True, folder=folder)

    with ChosenEngines(settings.state_folder / "engines").made(model, settings.compute_threads, make):
        pass
    models.keep(cast("Any", SimpleNamespace(model=model, digest=sha256(path), parts={})))
    return model
