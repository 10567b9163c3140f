"""MLflow's registry, to which models are pushed: as MLflow logs them, `mlflow.keras.load_model("models:/...")`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.registries.card import Card
from layerserve.registries.mlflow_address import URIS, error_text
from layerserve.registries.mlflow_files import GOLDEN, MLMODEL
from layerserve.values.tensor_spec import TensorSpec

#: The form of an address, for error texts.
FORM = "models:/NAME[@ALIAS]"
_ADDRESS = re.compile(r"models:/(?P<name>[^/@:]+)(@(?P<alias>[^/@:]+))?")


def is_address(text: str) -> bool:
    """Whether a text is an address of a registered model."""
    return text.startswith("models:/")


class Registry:
    """A registered model."""

    def __init__(self, address: str) -> None:
        """Raises InvalidArgument, and ImportError without the packages."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise InvalidArgument(f"to: got {address!r}, expected {FORM}")
        if not any(map(os.environ.get, URIS)):
            raise InvalidArgument(f"to: {URIS[0]} isn't set; set it to the address of MLflow's server")
        self._name, self._alias = found["name"], found["alias"]
        #: From where it is served.
        self.address = f"models:/{self._name}" + (f"@{self._alias}" if self._alias else "/latest")
        import mlflow.models
        import pandas  # noqa: F401  - signatures of models need it

        self._mlflow: Any = mlflow

    def files(self, model: Path, golden: Path | None) -> dict[str, Path]:
        """Returns the files of an MLflow model, by their paths in it."""
        return {f"data/model{model.suffix}": model, **({} if golden is None else {GOLDEN: golden})}

    def add(self, files: Mapping[str, Path], card: Card) -> str:
        """Logs and registers the files of a model, with its card. Returns the version's address. Raises OSError."""
        try:
            logged = self._mlflow.models.Model.log(
                artifact_path=None,
                name=self._name,
                flavor=_Flavor(files, card),
                registered_model_name=self._name,
            )
            number = str(logged.registered_model_version)
            client = self._mlflow.MlflowClient()
            client.update_model_version(self._name, number, description=card.text())
            if self._alias:
                # Last: who follows it gets a whole version.
                client.set_registered_model_alias(self._name, self._alias, number)
        except self._mlflow.exceptions.MlflowException as error:
            raise OSError(f"models:/{self._name}: {error_text(error)}") from error
        return f"models:/{self._name}/{number}"


@dataclass(frozen=True)
class _Flavor:
    """Writes an MLflow model, as the modules of MLflow's flavors do."""

    files: Mapping[str, Path]
    card: Card

    def save_model(self, path: str, mlflow_model: Any, **_: Any) -> None:
        """Writes the files of a model into a folder that doesn't exist."""
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Schema

        data = Path(path, "data")
        data.mkdir(parents=True)
        for inside, file in self.files.items():
            shutil.copyfile(file, Path(path, inside))
        Path(path, "README.md").write_text(self.card.text(), "utf-8")
        info = self.card.model
        mlflow_model.signature = ModelSignature(
            *(Schema([_described(spec, len(specs)) for spec in specs]) for specs in (info.inputs, info.outputs))
        )
        mlflow_model.metadata = {
            "layerserve": {"model": info.name, "version": info.version, "sha256": self.card.sha256}
        }
        keras = {"data": "data", "keras_version": info.keras_version}
        options: dict[str, Any]
        if "data/model.keras" in self.files:
            name, options = "keras", {**keras, "keras_backend": "torch", "save_exported_model": False}
        else:
            (data / "save_format.txt").write_text("h5")
            name, options = "tensorflow", {**keras, "model_type": "keras", "save_format": "h5", "code": None}
        module = "keras" if name == "keras" else "tensorflow.keras"
        (data / "keras_module.txt").write_text(module)
        requirement = f"{name}=={info.keras_version}" if info.keras_version else name
        Path(path, "requirements.txt").write_text(f"{requirement}\n")
        mlflow_model.add_flavor(name, **options)
        loader = {"loader_module": f"mlflow.{name}", **({"data": "data"} if name == "tensorflow" else {})}
        mlflow_model.add_flavor("python_function", **loader)
        mlflow_model.save(str(Path(path, MLMODEL)))


def _described(spec: TensorSpec, count: int) -> Any:
    """Returns MLflow's description of an input or output."""
    from mlflow.types.schema import TensorSpec as Described

    dtype = {"string": "str", "bfloat16": "float32"}.get(spec.dtype, spec.dtype)
    # A name makes it a column of a table, for MLflow: the only array has none.
    name = spec.name if count > 1 else None
    return Described(np.dtype(dtype), tuple(-1 if size is None else size for size in spec.shape), name)
