"""An open model file, of any container."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from layergraph.archive.finding import PRESET_CONFIG
from layergraph.archive.limits import LoadLimits
from layergraph.archive.weights import StateTree, StoredArray, StoredWeights

#: An array that will be read, and the order of its axes in memory, from slowest to fastest; None for its own.
Wanted: TypeAlias = "tuple[StoredArray, tuple[int, ...] | None]"


#: A version of Keras, such as "2.2.4-tf": text that may be shown and sent.
VERSION = re.compile(r"[!-~ ]{1,100}")


class Members(Protocol):
    """The files beside the weights of a `.keras`, by name: in the zip, or unpacked in a folder."""

    def __contains__(self, name: str) -> bool: ...
    @property
    def names(self) -> list[str]: ...
    def read(self, name: str, largest: int) -> bytes: ...


class ModelArchive:
    """An open model file: its config as parsed JSON, and its weights, not read yet.

    path              path of the file; of a SavedModel folder that of its `saved_model.pb`
    files             paths of all files that the model was read from
    config            the model's {"class_name": ..., "config": {...}}, as in the file
    training_config   the arguments of `compile`, as in the file; None if the model wasn't compiled
    keras_version     version of the Keras that wrote the file, or None if unknown, as is text that can't be a version
    backend           backend of the Keras that wrote the file, as written by Keras 2; None if unknown
    weights           the arrays, in the file's layout
    task_weights      the weights of a task in a preset folder of KerasHub; `weights` are then those of its backbone
    stored_bytes      size of the files in bytes
    members           members of a `.keras`; None for other formats
    prefetch          called with all arrays that will be read, before the first is; None if that isn't needed

    It takes ownership of `resources` and releases them in `close`.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: Mapping[str, Any],
        training_config: Mapping[str, Any] | None,
        keras_version: str | None,
        weights: StoredWeights,
        stored_bytes: int,
        limits: LoadLimits,
        resources: ExitStack,
        members: Members | None = None,
        backend: str | None = None,
        files: Sequence[Path] = (),
        task_weights: StateTree | None = None,
        prefetch: Callable[[Sequence[Wanted]], None] | None = None,
    ) -> None:
        self.path = path
        self.files = tuple(files) or (path,)
        self.config = config
        self.training_config = training_config
        self.keras_version = keras_version if keras_version and VERSION.fullmatch(keras_version) else None
        self.backend = backend
        self.weights = weights
        self.task_weights = task_weights
        self.stored_bytes = stored_bytes
        self.limits = limits
        self._resources = resources.pop_all()
        self.members = members
        self.prefetch = prefetch

    @property
    def suffix(self) -> str:
        """Suffix of the format: `.keras`, or `.h5` for all others."""
        return ".h5" if self.members is None else ".keras"

    @property
    def is_preset(self) -> bool:
        """Whether it is a preset folder of KerasHub."""
        return self.path.name == PRESET_CONFIG

    @property
    def optimizer_weights(self) -> Sequence[StoredArray]:
        """The optimizer's state in its own order, not read yet; empty if the file has none."""
        return self.weights.optimizer_weights()

    def asset(self, path: str) -> bytes | None:
        """Returns the file at `path` below `assets/`, or None. Raises CorruptFileError if it is damaged."""
        name = f"assets/{path}"
        if self.members is None or name not in self.members:
            return None
        return self.members.read(name, self.limits.asset_bytes)

    def close(self) -> None:
        """Closes the file; its arrays can't be read afterwards."""
        self._resources.close()

    def __enter__(self) -> ModelArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
