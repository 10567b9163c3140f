"""Opens SavedModel folders."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from layergraph.archive.files import FileWindow, open_own
from layergraph.archive.finding import names_beside
from layergraph.archive.limits import LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.saved_model.bundle import Bundle
from layergraph.archive.saved_model.constants import Constants
from layergraph.archive.saved_model.metadata import model_config, root_metadata
from layergraph.archive.saved_model.vocabularies import add_vocabularies
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.errors import UnsafeFileError

#: Files of a SavedModel folder.
SAVED_MODEL = "saved_model.pb"
KERAS_METADATA = "keras_metadata.pb"
VARIABLES = Path("variables", "variables")


def open_saved_model(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    """Opens the folder of the `saved_model.pb` at `path`, which is open as `file`.

    Raises CorruptFileError, UnsafeFileError, and UnsupportedModelError for what isn't a graph of Keras's layers.
    """
    if (folder := path.with_name(VARIABLES.parts[0])).is_symlink():
        raise UnsafeFileError(folder, "is a link, expected a folder")
    described, described_path = file, path
    if (metadata_path := path.with_name(KERAS_METADATA)).exists():
        described, described_path = open_own(metadata_path, resources), metadata_path
    metadata = root_metadata(described, described_path, limits)
    config = model_config(metadata, described_path)
    bundle = Bundle(path.parent / VARIABLES, limits, resources)
    weights = TrackedWeights(bundle, config, limits)
    assets = path.with_name("assets")
    add_vocabularies(weights, config, lambda: Constants(file, path, limits), assets, limits)
    training, version, backend = (metadata.get(key) for key in ("training_config", "keras_version", "backend"))
    return ModelArchive(
        path,
        config=config,
        training_config=training if isinstance(training, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        backend=backend if isinstance(backend, str) else None,
        weights=weights,
        stored_bytes=described.length + bundle.stored_bytes,
        limits=limits,
        resources=resources,
        files=tuple(dict.fromkeys((path, described_path, *bundle.files, *_files_in(assets)))),
    )


def _files_in(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [folder / name for name in names_beside(folder / "file", ("",))]
