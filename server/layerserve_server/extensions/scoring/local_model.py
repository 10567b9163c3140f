"""A version on disk, computed in this process: for those who score data without a server.

The client finds `open_model` as an entry point of the group `layerserve.local_models`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from layergraph.errors import LayerGraphError, ModelFileError
from layerserve import errors as client_errors
from layerserve.images.options import ImageOptions
from layerserve.scoring.open_models import Identity, dependent_rows
from layerserve.values.tensor_spec import TensorSpec

from layerserve_server.disk import sha256
from layerserve_server.errors import ServerError
from layerserve_server.extensions.installed import model_settings
from layerserve_server.inference.admission import admit
from layerserve_server.inference.runner import PLUGINS_VARIABLE, Array, ModelRunner, load_model, load_plugins
from layerserve_server.inference.runner import TensorSpec as Spec
from layerserve_server.repository import layout
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.model_settings import (
    DEFAULTS,
    SETTINGS_FILE,
    ModelSettings,
    ModelSettingsError,
    parse_settings,
    read_content,
)
from layerserve_server.repository.version_reader import version_digest


def open_model(
    path: str, model: str | None, version: int | None, outputs: Sequence[str] | None, plugins: str
) -> LocalModel:
    """Opens a version in a model file, a version's folder, a model's folder or a repository.

    `plugins` are modules with custom layers, separated by commas. Default version: the `default_version` of the model's
    settings, or else the newest. Raises LayerserveError.
    """
    with _errors_of_the_client():
        found = find(Path(path), model, version)
        # Its child processes, if any, import the same.
        os.environ.setdefault(PLUGINS_VARIABLE, plugins)
        load_plugins(plugins)
        return LocalModel(found, outputs)


class LocalModel:
    """A version in memory. Thread-safe."""

    def __init__(self, found: FoundVersion, outputs: Sequence[str] | None) -> None:
        settings = _settings(found)
        self._model = load_model(found.path, None, settings.golden_rtol, settings.golden_atol)
        digest = version_digest(found, sha256)
        if found.fingerprint not in _fingerprints_now(found):
            raise client_errors.ModelNotReady(f"{found.label}: its file was changed while it was read; try again")
        self._runner = ModelRunner(self._model)
        plan = self._plan = self._runner.plan(outputs or ())
        if not plan.batched:
            raise dependent_rows(found.name)
        inputs, made = _specs(plan.input_specs), _specs(plan.output_specs)
        images = _images(settings, inputs)
        inputs = tuple(replace(spec, encoding="image") if spec.name in images else spec for spec in inputs)
        self._outputs = tuple(spec.name for spec in made)
        self.identity = Identity(found.name, found.version, digest, inputs, made, images)

    def run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the outputs for some rows, those of `Predict`. Raises LayerserveError."""
        with _errors_of_the_client():
            admitted = admit(self._plan, self._model.input_specs, tuple(arrays.items()))
            return self._runner(self._outputs, admitted.arrays)


def _images(settings: ModelSettings, inputs: Sequence[TensorSpec]) -> dict[str, ImageOptions]:
    """Returns how images of the inputs that the model's settings take encoded are decoded. Raises ModelNotReady."""
    # Of the extension for images, if it is there.
    of_inputs = getattr(settings, "inputs", {})
    specs = {spec.name: spec for spec in inputs}
    if not of_inputs.keys() & specs.keys():
        return {}
    from layerserve.images.decoder import ImageDecoder

    try:
        options = {name: one.options() for name, one in of_inputs.items() if name in specs}
        for name, one in options.items():
            ImageDecoder(specs[name], one)
    except ValueError as error:
        raise client_errors.ModelNotReady(f"inputs: {error}") from error
    return options


def _specs(specs: Sequence[Spec]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, tuple(spec.shape), spec.dtype) for spec in specs)


def find(path: Path, model: str | None, version: int | None) -> FoundVersion:
    """Finds a version at a path. Raises ModelNotFound, VersionNotFound, and InvalidArgument without a name."""
    # A folder without a model has its own path.
    versions = [one for one in _versions(path) if one.problem or not one.path.is_dir()]
    known = sorted({one.name for one in versions})
    if not known:
        raise client_errors.ModelNotFound(f"path {str(path)!r}: got no model, expected a model file or a repository")
    if model is None and len(known) > 1:
        raise client_errors.InvalidArgument(
            f"model: got None, expected the name of one of the models in {str(path)!r}: {', '.join(known[:20])}"
        )
    name = known[0] if model is None else model
    if name not in known:
        raise client_errors.ModelNotFound(f"model {name!r}: {str(path)!r} has {', '.join(map(repr, known[:20]))}")
    numbers = {one.version: one for one in versions if one.name == name}
    if version is None:
        version = _default_version(numbers)
    if version not in numbers:
        listed = ", ".join(map(str, sorted(numbers)[-20:]))
        raise client_errors.VersionNotFound(f"model {name!r} has no version {version}; {str(path)!r} has {listed}")
    found = numbers[version]
    if found.problem:
        raise client_errors.ModelNotReady(f"{found.label}: {found.problem}")
    return found


def _default_version(numbers: Mapping[int, FoundVersion]) -> int:
    newest = max(numbers)
    chosen = _settings(numbers[newest]).default_version
    if chosen is not None:
        return chosen
    return max((number for number, one in numbers.items() if not one.problem), default=newest)


def _versions(path: Path) -> Sequence[FoundVersion]:
    """Returns the versions at a path."""
    if not path.is_dir():
        return [_of_file(path)]
    if layout.VERSION_FOLDER.fullmatch(path.name) and (one := _of_folder(path)) is not None:
        return [one]
    folders = [entry for entry in path.iterdir() if layout.VERSION_FOLDER.fullmatch(entry.name) and entry.is_dir()]
    versions = [one for entry in folders if (one := _of_folder(entry)) is not None]
    if versions:
        return versions
    # A folder that is one model, such as TensorFlow's and KerasHub's, and an architecture beside its weights.
    one = _of_folder(path)
    if one is not None and one.path.suffix in (".pb", ".json"):
        return [one]
    return layout.find_in_folder(path).versions


def _of_file(path: Path) -> FoundVersion:
    """Returns the version of a model file, which may be that of a version's folder."""
    if layout.VERSION_FOLDER.fullmatch(path.parent.name):
        one = _of_folder(path.parent)
        if one is not None and one.path == path:
            return one
    return layout.find_flat_file(path.stem, path)


def _of_folder(folder: Path) -> FoundVersion | None:
    """Returns the version in a folder; None if there is no model in it."""
    is_version = layout.VERSION_FOLDER.fullmatch(folder.name)
    name, version = (folder.parent.name, int(folder.name)) if is_version else (folder.name, 1)
    found = layout.find_version(name, version, folder)
    return None if found.path == folder and not found.problem else found


def _fingerprints_now(found: FoundVersion) -> list[object]:
    """Returns the fingerprints of a version's file as of a file, and as of a folder, which may have parts of it."""
    at_folder = _of_folder(found.path.parent)
    return [one.fingerprint for one in (at_folder, _of_file(found.path)) if one is not None and one.path == found.path]


def _settings(found: FoundVersion) -> ModelSettings:
    """Returns the model's settings: of its folder, or beside its file."""
    folder = found.path.parent
    of_model = folder.parent if layout.VERSION_FOLDER.fullmatch(folder.name) else folder
    for file in (of_model / SETTINGS_FILE, folder / f"{found.name}.toml"):
        content = read_content(file)
        if content is not None:
            return parse_settings(content, str(file), model_settings())
    return DEFAULTS


@contextmanager
def _errors_of_the_client() -> Iterator[None]:
    """In the block, errors become those that a server's client would get."""
    try:
        yield
    except ServerError as error:
        kind: Any = client_errors.CODES.get(error.reason, client_errors.InvalidArgument)
        raise kind(str(error)) from error
    except (ModelFileError, ModelSettingsError) as error:
        raise client_errors.ModelNotReady(str(error)) from error
    except LayerGraphError as error:
        raise client_errors.InvalidArgument(str(error)) from error
