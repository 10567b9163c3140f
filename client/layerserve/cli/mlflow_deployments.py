"""Deployments of MLflow on a server: `mlflow deployments create -t layerserve://HOST:PORT --name NAME -m MODEL`.

MLflow finds this module by an entry point. A deployment is a model of the server: `create` uploads its first version,
`update` the next one, and `delete` deletes it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from layerserve import Client
from layerserve.calls.connection import DEFAULT_ADDRESS, TLS
from layerserve.cli import variables
from layerserve.errors import AlreadyExists, FailedPrecondition, InvalidArgument, LayerserveError, NotFound
from layerserve.models.info import ModelInfo
from layerserve.registries.mlflow_address import is_mlflow, read_address
from layerserve.registries.mlflow_files import MAX_MLMODEL_BYTES, MLMODEL, FlavorError, data_folder, version_files
from layerserve.values.tables import shape_text

_HELP = """\
Targets are the addresses of layerserve servers: layerserve://HOST:PORT, such as layerserve://localhost:8500.
`layerserve` alone is the address in LAYERSERVE_ADDRESS, by default localhost:8500.

TLS and the token are in variables: LAYERSERVE_TOKEN or LAYERSERVE_TOKEN_FILE, LAYERSERVE_TLS=true, LAYERSERVE_CA,
LAYERSERVE_CERT and LAYERSERVE_KEY. The token needs the right "manage", for `predict` the right "predict".

A deployment is a model of the server. Models are those that MLflow logs with the flavors keras and tensorflow (a Keras
model). The server reads their layers and weights, and never loads code.

  create   uploads the first version of a model that the server doesn't have
  update   uploads the next version; with -C label=... and no --model-uri, it labels the newest one
  delete   unloads and deletes the model; one with runs that haven't ended is kept
  predict  JSON as pandas reads it: {"INPUT": [row, ...], ...}, or [row, ...] for a model with one input

Config (-C NAME=VALUE) of create and update:

  label    a label for the version, such as stable

Config of run-local:

  port     the port of gRPC, by default 8500
"""
#: What may be named in the config of each call.
_CONFIG = {"create": ("label",), "update": ("label",), "delete": (), "run-local": ("port",)}


def target_help() -> str:
    """Returns what `mlflow deployments help -t layerserve` prints."""
    return _HELP


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Serves a model on this machine until the process is interrupted. Needs the packages of the server."""
    options = _checked("run-local", config)
    with _as_mlflow_errors(), tempfile.TemporaryDirectory() as folder, _version(model_uri, flavor) as version:
        shutil.copytree(version, Path(folder, name, "1"))
        port = ["--grpc-port", str(options["port"])] if "port" in options else []
        command = [sys.executable, "-m", "layerserve", "serve", folder, *port]
        if subprocess.run(command, check=False).returncode not in (0, -2, 130):
            raise MlflowException("the server ended with an error")


class LayerserveDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]
    """MLflow's client of a server. Errors are MlflowException."""

    def __init__(self, target_uri: str) -> None:
        """`target_uri` is "layerserve://HOST:PORT" or "layerserve"."""
        super().__init__(target_uri)
        with _as_mlflow_errors():
            self._client = _connected(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Uploads the first version of a model. Raises MlflowException if the server has the model."""
        options = _checked("create", config, endpoint)
        with _as_mlflow_errors():
            if self._client.models(name):
                raise AlreadyExists(f"model {name!r}: the server has it; `update` adds a version")
            return self._upload(name, model_uri, flavor, options)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Uploads the next version of a model, or labels the newest one."""
        options = _checked("update", config, endpoint)
        with _as_mlflow_errors():
            newest = self._newest(name)
            if model_uri is not None:
                return self._upload(name, model_uri, flavor, options)
            if "label" not in options:
                raise InvalidArgument(f"update of {name!r}: expected a model URI, or the config `label`")
            self._client.set_label(name, options["label"], newest.version)
            return {"name": name, "flavor": "keras", "version": newest.version}

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Deletes a model with all versions, if there is one. One with runs that haven't ended is kept."""
        _checked("delete", config, endpoint)
        with _as_mlflow_errors():
            if not self._client.models(name):
                return
            # A loaded model isn't deleted, unless by force, which also deletes one with runs.
            self._client.unload(name)
            try:
                self._client.delete_model(name)
            except FailedPrecondition:
                self._client.load(name)
                raise

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Returns the models of the server."""
        _no_endpoint(endpoint)
        with _as_mlflow_errors():
            found: dict[str, ModelInfo] = {}
            for info in self._client.models():
                if info.name not in found or info.served_by_default:
                    found[info.name] = info
            return [{"name": name, "version": info.version, "state": info.state} for name, info in found.items()]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Returns what the server says of a model. Raises MlflowException if there is none."""
        _no_endpoint(endpoint)
        with _as_mlflow_errors():
            versions = self._client.models(name)
            info = next((one for one in versions if one.served_by_default), None) or self._newest(name)
            return {
                "name": name,
                "version": info.version,
                "state": info.state,
                "reason": info.reason,
                "inputs": {spec.name: f"{spec.dtype} {shape_text(spec.shape)}" for spec in info.inputs},
                "outputs": {spec.name: f"{spec.dtype} {shape_text(spec.shape)}" for spec in info.outputs},
                "labels": {label: one.version for one in versions for label in one.labels},
                "versions": [one.version for one in versions],
            }

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Computes the outputs of a model: nested lists, for several outputs by name, under "predictions".

        `inputs` are a DataFrame, a mapping of arrays by name, or the array of the only input.
        """
        _no_endpoint(endpoint)
        with _as_mlflow_errors():
            outputs = self._client.predict_named(deployment_name or "", _arrays(inputs))
            lists = {name: array.tolist() for name, array in outputs.items()}
            return PredictionsResponse(predictions=lists if len(lists) > 1 else next(iter(lists.values())))

    def _newest(self, name: str) -> ModelInfo:
        """Returns the newest version of a model. Raises NotFound."""
        versions = self._client.models(name)
        # The error of the second call names similar models.
        return versions[0] if versions else self._client.model(name)

    def _upload(self, name: str, model_uri: str, flavor: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        with _version(model_uri, flavor) as folder:
            change = self._client.upload(name, folder, label=options.get("label"))
        return {"name": name, "flavor": flavor or "keras", "version": change.version}


def _connected(target: str) -> Client:
    """Returns a client for a target, with the variables that the command line has."""
    address = re.sub(r"^layerserve:?/*", "", target) or os.environ.get(variables.ADDRESS) or DEFAULT_ADDRESS
    given = {name: os.environ.get(name) or None for name in variables.ALL}
    files = (given[variables.CA], given[variables.CERT], given[variables.KEY])
    tls = (given[variables.TLS] or "").lower() in ("1", "true", "t", "yes", "y", "on")
    file = given[variables.TOKEN_FILE]
    return Client(
        address, tls=TLS(*files) if any(files) else tls, token=given[variables.TOKEN] or (file and Path(file))
    )


@contextmanager
def _version(model_uri: str, flavor: str | None) -> Iterator[Path]:
    """Downloads an MLflow model. Yields a folder with the files of a version, which exists until the block ends."""
    if flavor not in (None, "keras", "tensorflow"):
        raise InvalidArgument(f"flavor: got {flavor!r}, expected keras or tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(download_artifacts(artifact_uri=_mlflow_spelling(model_uri), dst_path=f"{folder}/"))
        try:
            with (model / MLMODEL).open("rb") as file:
                text = file.read(MAX_MLMODEL_BYTES).decode("utf-8", "replace")
        except OSError:
            raise FlavorError(f"{model_uri}: has no file {MLMODEL}") from None
        paths = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
        version = Path(folder, "version")
        for inside, path in version_files(data_folder(text), paths).items():
            (version / inside).parent.mkdir(parents=True, exist_ok=True)
            (model / path).rename(version / inside)
        yield version


def _mlflow_spelling(uri: str) -> str:
    """Returns an address as MLflow has it: `models:/NAME/ALIAS` is that of a stage for it."""
    try:
        named = read_address(uri) if is_mlflow(uri) else None
    except ValueError:
        return uri
    return f"models:/{named.name}@{named.alias}" if named and named.alias not in ("", "latest") else uri


def _arrays(inputs: Any) -> Any:
    """Returns inputs, of which the columns of a DataFrame may have lists: pandas reads arrays of JSON so."""
    if not hasattr(inputs, "columns"):
        return inputs
    columns = {str(name): inputs[name].tolist() for name in inputs.columns}
    if not any(isinstance(value, list) for rows in columns.values() for value in rows[:1]):
        return inputs
    return {name: np.array(rows) for name, rows in columns.items()}


def _checked(call: str, config: Mapping[str, Any] | None, endpoint: str | None = None) -> Mapping[str, Any]:
    """Returns the config of a call. Raises MlflowException for what it doesn't know."""
    _no_endpoint(endpoint)
    if others := sorted(set(config or {}) - set(_CONFIG[call])):
        expected = " or ".join(_CONFIG[call]) or "none"
        raise MlflowException.invalid_parameter_value(f"config of {call}: got {', '.join(others)}, expected {expected}")
    return config or {}


def _no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise MlflowException.invalid_parameter_value(
            f"endpoint: got {endpoint!r}; a server has none, name a deployment"
        )


#: MLflow's codes by class of error.
_CODES = {NotFound: 3002, AlreadyExists: 3001, InvalidArgument: 1000}


@contextmanager
def _as_mlflow_errors() -> Iterator[None]:
    """Raises MlflowException in place of the client's errors, as the interface has it."""
    try:
        yield
    except MlflowException:
        raise
    except (LayerserveError, ValueError, OSError) as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1)
        raise MlflowException(str(error), error_code=code) from error
