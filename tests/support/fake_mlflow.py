"""A registry of models in place of MLflow's library: folders with files, versions, aliases and runs."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

KERAS = {"keras": {"data": "data", "keras_version": "3.15.0", "save_exported_model": False}}


class MlflowException(Exception):
    """As MLflow's, with its codes of errors as texts."""

    def __init__(self, message: str, error_code: str | int = "INTERNAL_ERROR") -> None:
        super().__init__(message)
        self.message, self.error_code = message, error_code

    @classmethod
    def invalid_parameter_value(cls, message: str) -> MlflowException:
        return cls(message, "INVALID_PARAMETER_VALUE")


class BaseDeploymentClient:
    """As MLflow's."""

    def __init__(self, target_uri: str) -> None:
        self.target_uri = target_uri


@dataclass
class FakeMlflow:
    """What the library answers. The files of each address are in a folder below `folder`."""

    folder: Path
    #: Versions by name of the model and number.
    versions: dict[tuple[str, int], SimpleNamespace] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    #: What was logged by `log_flavor`.
    logged: dict[tuple[str, int], _Model] = field(default_factory=dict)
    #: Raised by every call, as long as it is set.
    error: Exception | None = None

    def log(self, uri: str, files: dict[str, str], flavors: Any = KERAS, **more: Any) -> Path:
        """Writes an MLflow model to an address. Returns its folder."""
        place = self.place(uri)
        for path, text in {"MLmodel": json.dumps({"flavors": flavors, **more}), **files}.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        return place

    def register(self, name: str, number: int, files: dict[str, str], flavors: Any = KERAS, **more: Any) -> Path:
        """Adds a version of a registered model. Returns its folder."""
        about = SimpleNamespace(name=name, version=str(number), status="READY", creation_timestamp=1000 + number)
        self.versions[name, number] = about
        return self.log(f"models:/{name}/{number}", files, flavors, **more)

    def log_flavor(self, artifact_path: None, name: str, flavor: Any, registered_model_name: str) -> SimpleNamespace:
        """Logs what the module of a flavor writes, as the next version."""
        self.check()
        number = max((number for model, number in self.versions if model == name), default=0) + 1
        self.register(name, number, {})
        model = _Model()
        flavor.save_model(str(self.place(f"models:/{name}/{number}")), model)
        self.logged[name, number] = model
        return SimpleNamespace(registered_model_version=number)

    def download(self, artifact_uri: str, dst_path: str) -> str:
        """Copies an MLflow model, named as MLflow names it, into a folder."""
        self.check()
        uri, _, alias = artifact_uri.partition("@")
        if alias:
            uri += f"/{self.aliases[uri.removeprefix('models:/'), alias]}"
        if not self.place(uri).exists():
            raise MlflowException(f"{uri} not found", "RESOURCE_DOES_NOT_EXIST")
        return shutil.copytree(self.place(uri), Path(dst_path) / "model")

    def place(self, uri: str) -> Path:
        """Returns the folder of an address."""
        return self.folder / uri.replace(":/", "/")

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def version(self, name: str, number: int) -> SimpleNamespace:
        self.check()
        if (name, number) not in self.versions:
            raise MlflowException(f"Model Version (name={name}, version={number}) not found", "RESOURCE_DOES_NOT_EXIST")
        return self.versions[name, number]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts it in the place of MLflow's modules."""
        models = SimpleNamespace(Model=SimpleNamespace(log=self.log_flavor))
        exceptions = SimpleNamespace(MlflowException=MlflowException)
        modules = {
            "mlflow": {"MlflowClient": lambda: _Client(self), "models": models, "exceptions": exceptions},
            "mlflow.artifacts": {"download_artifacts": self.download},
            "mlflow.deployments": {"BaseDeploymentClient": BaseDeploymentClient, "PredictionsResponse": dict},
            "mlflow.models": {"ModelSignature": lambda *schemas: schemas},
            "mlflow.types": {},
            "mlflow.types.schema": {"Schema": list, "TensorSpec": lambda *fields: fields},
            "pandas": {},
            "mlflow.exceptions": {"MlflowException": MlflowException},
            "mlflow.store": {},
            "mlflow.store.artifact": {},
            "mlflow.store.artifact.artifact_repository_registry": {
                "get_artifact_repository": lambda uri: _Repository(self, uri)
            },
        }
        for name, values in modules.items():
            module = ModuleType(name)
            vars(module).update(values, __path__=[])
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")


@dataclass
class _Model:
    """What a flavor says of a model."""

    flavors: dict[str, Any] = field(default_factory=dict)
    signature: Any = None
    metadata: Any = None
    description: str = ""

    def add_flavor(self, name: str, **options: Any) -> None:
        self.flavors[name] = options

    def save(self, path: str) -> None:
        Path(path).write_text(json.dumps({"flavors": self.flavors}))


@dataclass
class _Client:
    server: FakeMlflow

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return self.server.version(name, int(version))

    def update_model_version(self, name: str, version: str, description: str) -> None:
        self.server.logged[name, int(version)].description = description

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.server.aliases[name, alias] = int(version)

    def get_run(self, run: str) -> None:
        self.server.check()
        if not self.server.place(f"runs:/{run}").exists():
            raise MlflowException(f"Run with id={run} not found", "RESOURCE_DOES_NOT_EXIST")

    def get_logged_model(self, id: str) -> SimpleNamespace:
        self.server.check()
        if not self.server.place(f"models:/{id}").exists():
            raise MlflowException(f"Logged model with ID '{id}' not found", "RESOURCE_DOES_NOT_EXIST")
        return SimpleNamespace(status="READY", creation_timestamp=1)

    def get_model_version_by_alias(self, name: str, alias: str) -> SimpleNamespace:
        self.server.check()
        if (name, alias) not in self.server.aliases:
            raise MlflowException(f"Registered model alias {alias} not found.", "RESOURCE_DOES_NOT_EXIST")
        return self.server.version(name, self.server.aliases[name, alias])

    def search_model_versions(self, filter_string: str, max_results: int, order_by: list[str]) -> list[SimpleNamespace]:
        self.server.check()
        assert (max_results, order_by) == (1, ["version_number DESC"])
        name = filter_string.removeprefix("name='").removesuffix("'")
        numbers = [number for model, number in self.server.versions if model == name]
        return [self.server.version(name, max(numbers))] if numbers else []


@dataclass
class _Repository:
    server: FakeMlflow
    uri: str

    def list_artifacts(self, path: str | None = None) -> list[SimpleNamespace]:
        self.server.check()
        root = self.server.place(self.uri)
        folder = root / (path or "")
        return [
            SimpleNamespace(
                path=one.relative_to(root).as_posix(),
                is_dir=one.is_dir(),
                file_size=None if one.is_dir() else one.stat().st_size,
            )
            for one in (sorted(folder.iterdir()) if folder.is_dir() else ())
        ]

    def download_artifacts(self, path: str, dst_path: str) -> str:
        self.server.check()
        target = Path(dst_path) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.server.place(self.uri) / path, target)
        return str(target)
