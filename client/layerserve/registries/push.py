"""Copies a version of a server's model into a registry, with a card: the hub of Hugging Face (`hf://`), or MLflow."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from layerserve.errors import InvalidArgument
from layerserve.models.file_digest import file_digest
from layerserve.models.info import model_spec
from layerserve.models.signatures import loaded_model
from layerserve.prediction.blocking import PredictionMethods
from layerserve.registries import hub, mlflow_registry
from layerserve.registries.card import Card
from layerserve.registries.golden import golden_numbers
from layerserve.registries.mlflow_files import GOLDEN


@dataclass(frozen=True)
class Pushed:
    """A version that was pushed: its number on the server, its address in the registry and its digest."""

    model: str
    version: int
    address: str
    sha256: str


def push(
    client: PredictionMethods, model: str, to: str, *, version: int | None = None, label: str | None = None
) -> Pushed:
    """Copies a version of a model into a registry, with golden numbers that the server computes, and a card.

    `to` is "hf://USER/REPOSITORY", also with "@REVISION", or "models:/NAME" for the next version of a registered model
    of MLflow, also with "@ALIAS", which is moved to it. Packages: huggingface_hub or mlflow-skinny with pandas. A
    repository that doesn't exist is created, and is private.

    Raises InvalidArgument (an address), ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, ImportError (a
    package is missing), OSError (the registry refuses it).
    """
    found = next((one for one in (hub, mlflow_registry) if one.is_address(to)), None)
    if found is None:
        raise InvalidArgument(f"to: got {to!r}, expected {hub.FORM} or {mlflow_registry.FORM}")
    # One version for all: another one may become the default meanwhile.
    info = client._run(loaded_model(model_spec(model, version, label)))
    registry = found.Registry(to)
    golden = golden_numbers(client, info)
    with tempfile.TemporaryDirectory() as folder:
        path = client.download(model, f"{folder}/", version=info.version)
        _, digest = file_digest(path)
        proof = None if golden.missing else Path(folder, GOLDEN)
        if proof is not None:
            proof.write_bytes(golden.as_npz())
        files = registry.files(path, proof)
        about = {name: file_digest(file) for name, file in files.items()}
        address = registry.add(files, Card(info, digest, about, golden, registry.address))
    return Pushed(info.name, info.version, address, digest)
