"""Which files of an MLflow model are the Keras model: its file `MLmodel` says it. Code in the model is never loaded.

MLflow writes a Keras model as `keras` (Keras 3: `data/model.keras`) or `tensorflow` (Keras 2: `data/model.h5`, or a
SavedModel in `data/model/`). What else is in the folder (`python_function`, pickled custom objects, modules) is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

#: The file in an MLflow model that describes it, and its maximum size in bytes.
MLMODEL, MAX_MLMODEL_BYTES = "MLmodel", 1 << 20
#: Inputs and outputs that a version must compute, as `layerserve push` writes them.
GOLDEN = "golden.npz"
#: Model files below the flavor's data, which keep their names.
_FILES = ("model.keras", "model.h5")
_SAVED_MODEL = "model/saved_model.pb"
#: Folder of the data of models that don't name it.
_DATA = "data"


class FlavorError(ValueError):
    """An MLflow model that has no Keras model, or not all of its files."""


def data_folder(text: str) -> str:
    """Returns the folder with the Keras model, relative to the MLflow model, for the text of its `MLmodel`.

    Raises FlavorError if its flavors aren't Keras's.
    """
    flavors = _flavors(text)
    name = next((name for name in ("keras", "tensorflow") if name in flavors), None)
    if name is None:
        raise FlavorError(f"flavors: got {', '.join(sorted(flavors)) or 'none'}, expected keras or tensorflow")
    options = flavors[name]
    kind = options.get("model_type", "keras" if name == "keras" else "tf1-estimator")
    if kind != "keras":
        raise FlavorError(f"flavor {name}: got '{kind!s:.40}', which is a graph without layers, expected a Keras model")
    if options.get("save_exported_model"):
        raise FlavorError(
            f"flavor {name}: got an exported graph, which has no layers; log the model without save_exported_model"
        )
    folder = options.get("data", _DATA)
    parts = folder.split("/") if isinstance(folder, str) else [""]
    if not parts or any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise FlavorError(f"flavor {name}: data: got {folder!r:.80}, expected a folder in the model")
    return str(folder)


def version_files(folder: str, paths: Collection[str]) -> dict[str, str]:
    """Returns the files of a version, by their paths in its folder: their paths in the MLflow model.

    `folder` is that of the data, and `paths` are the files of the MLflow model, at least those in that folder and those
    beside `MLmodel`. Raises FlavorError if the Keras model isn't among them.
    """
    files = {GOLDEN: GOLDEN} if GOLDEN in paths else {}
    for name in _FILES:
        if (path := f"{folder}/{name}") in paths:
            return {name: path, **files}
    if folder in paths and (suffix := PurePosixPath(folder).suffix) in (".h5", ".keras"):
        # MLflow before 1.0.
        return {f"model{suffix}": folder, **files}
    if f"{folder}/{_SAVED_MODEL}" in paths:
        start = f"{folder}/model/"
        return {path.removeprefix(start): path for path in paths if path.startswith(start)} | files
    expected = ", ".join(f"{folder}/{inside}" for inside in (*_FILES, _SAVED_MODEL))
    found = ", ".join(sorted(paths)[:5])
    raise FlavorError(f"files: got {found or 'none'}, expected one of {expected}")


def served_name(name: str) -> str:
    """Returns the name that a model has on a server: characters that it can't have there are replaced by `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:128]


def _flavors(text: str) -> Mapping[str, Mapping[str, Any]]:
    # It comes with MLflow.
    import yaml

    try:
        document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FlavorError(f"{MLMODEL}: isn't YAML: {' '.join(str(error).split())[:200]}") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise FlavorError(f"{MLMODEL}: got no flavors")
    return {str(name): options if isinstance(options, dict) else {} for name, options in flavors.items()}
