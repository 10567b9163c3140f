"""Reading of a version: its file is checked, read, compared with its golden file and warmed up."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from layergraph.errors import LayerGraphError
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.errors import ServerError, VersionFailedError, error_text, safe_text
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.input_decoder import InputDecoder
from layerserve_server.inference.runner import ModelRunner, ServedModel, TensorSpec
from layerserve_server.repository import publishing
from layerserve_server.repository.class_labels import read_class_labels
from layerserve_server.repository.layout import FoundVersion, model_fingerprint
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.signatures import check_signatures
from layerserve_server.repository.version import LoadedVersion, VersionPart

logger = logging.getLogger(__name__)

#: Loads a model file with a model's settings. Raises layergraph's errors.
Load: TypeAlias = Callable[[Path, ModelSettings], ServedModel]
#: Opens what was kept of a version, by the digest of its files. None if that isn't kept, or can't be used.
OpenKept: TypeAlias = Callable[[FoundVersion, str, ModelSettings], ServedModel | None]
#: Makes the queue of a version, from the model's name, the version, its runner and settings.
MakeQueue: TypeAlias = Callable[[str, int, ModelRunner, ModelSettings], BatchQueue]
#: Makes an extension's part of a version, by its name. Raises VersionFailedError.
MakeParts: TypeAlias = Callable[[FoundVersion, ServedModel, ModelSettings], Mapping[str, VersionPart]]
#: Makes decoders of inputs, by name, from a model's settings and inputs. Raises VersionFailedError.
MakeDecoders: TypeAlias = Callable[[ModelSettings, Sequence[TensorSpec]], Mapping[str, InputDecoder]]


class VersionReader:
    """Reads versions from their files."""

    def __init__(
        self,
        load: Load,
        make_queue: MakeQueue,
        digest: Callable[[Path], str],
        make_decoders: Sequence[MakeDecoders] = (),
        make_parts: Sequence[MakeParts] = (),
        open_kept: OpenKept = lambda found, digest, settings: None,
    ) -> None:
        """`digest` returns a file's SHA-256 digest.

        `make_decoders` and `make_parts` may be added to until the first version is read.
        """
        self.load = load
        self.make_queue = make_queue
        self._digest = digest
        self._make_decoders = make_decoders
        self._make_parts = make_parts
        self._open_kept = open_kept

    def read(
        self, found: FoundVersion, settings: ModelSettings, released: Callable[[LoadedVersion], None]
    ) -> LoadedVersion:
        """Returns the version, ready to serve. `released` is called when it was freed.

        Raises VersionFailedError, layergraph's errors, and others for defects of the server.
        """
        manifest = self._checked_manifest(found)
        return self._made(found, settings, released, manifest, self.load(found.path, settings))

    def read_kept(
        self, found: FoundVersion, settings: ModelSettings, released: Callable[[LoadedVersion], None]
    ) -> LoadedVersion | None:
        """Returns the version as it was kept, without reading its file; None if that can't be used."""
        try:
            digest = self._digest_of(found)
            model = self._open_kept(found, digest, settings) if digest else None
            if model is None:
                return None
            return self._made(found, settings, released, self._checked_manifest(found), model, kept=True)
        except Exception as reason:
            # It is read from its file instead, which says what is wrong with it.
            logger.info("%s: what was kept isn't used: %s", found.label, safe_text(str(reason)))
            return None

    def _checked_manifest(self, found: FoundVersion) -> dict[str, Any]:
        manifest: dict[str, Any] = {}
        if found.published:
            manifest = publishing.read_manifest(found.path.parent)
            problem = publishing.check_manifest(found.path, manifest, self._digest)
            if problem:
                raise VersionFailedError(problem)
        return manifest

    def _made(
        self,
        found: FoundVersion,
        settings: ModelSettings,
        released: Callable[[LoadedVersion], None],
        manifest: Mapping[str, Any],
        model: ServedModel,
        *,
        kept: bool = False,
    ) -> LoadedVersion:
        for spec in (*model.input_specs, *model.output_specs):
            if spec.dtype not in NUMPY_DTYPES:
                raise VersionFailedError(f"tensor '{spec.name}' has dtype {spec.dtype}, which requests can't have")
        runner = ModelRunner(model, settings.compute_threads)
        check_signatures(model, runner, settings.signatures or {})
        class_labels = read_class_labels(found, settings.class_labels, runner)
        decoders: dict[str, InputDecoder] = {}
        for make in self._make_decoders:
            decoders |= make(settings, model.input_specs)
        parts: dict[str, VersionPart] = {}
        for make_parts in self._make_parts:
            parts |= make_parts(found, model, settings)
        if settings.warm_up_rows:
            _warm_up(found, runner, settings.warm_up_rows)
        # Last, since metrics follow the queue of a version from here on.
        queue = self.make_queue(found.name, found.version, runner, settings)
        loaded = LoadedVersion(
            found=found,
            model=model,
            runner=runner,
            queue=queue,
            parameter_count=model.count_params(),
            training_run=str(manifest.get("run", "")),
            digest=self._digest_of(found),
            kept=kept,
            released=released,
            settings=settings,
            class_labels=class_labels,
            decoders=decoders,
            parts=parts,
        )
        loaded.measure()
        return loaded

    def _digest_of(self, found: FoundVersion) -> str:
        # After loading, which has read the files' digests beside them. They may be other files by now, or gone: then
        # the next scan has them read again.
        try:
            digest = version_digest(found, self._digest)
            return digest if model_fingerprint(found.path, found.parts) == found.model_fingerprint else ""
        except OSError:
            return ""


def version_digest(found: FoundVersion, digest: Callable[[Path], str]) -> str:
    """Returns the SHA-256 digest of a version's model file; of several files, that of their digests and names.

    `digest` returns a file's. Raises OSError.
    """
    if not found.parts:
        return digest(found.path)
    names = sorted((found.path.name, *found.parts))
    listed = "".join(f"{digest(found.path.parent / name)}  {name}\n" for name in names)
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


def _warm_up(found: FoundVersion, runner: ModelRunner, rows: int) -> None:
    """Raises VersionFailedError if the model can't compute these rows."""
    try:
        warm = runner.warm_up(rows, found.path)
    except (LayerGraphError, ServerError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise VersionFailedError(f"warm_up_rows: computing {rows} rows failed: {safe_text(str(error))}") from error
    if not warm:
        logger.warning("%s isn't warmed up: no random inputs were found that it accepts", found.label)


def failure_text(error: Exception) -> tuple[str, bool]:
    """Returns why a version failed to load, for callers, and whether the error is an expected one.

    The text of an unexpected one isn't shown, since it may have internals of the server.
    """
    if not isinstance(error, (LayerGraphError, VersionFailedError, OSError, MemoryError)):
        return "internal error while loading; see the server's log", False
    return safe_text(error_text(error)), True
