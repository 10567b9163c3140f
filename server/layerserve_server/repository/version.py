"""A loaded version: its model, its queue and its leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.input_decoder import InputDecoder, with_encodings
from layerserve_server.inference.runner import ModelRunner, ServedModel, TensorSpec
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.signatures import Signature, signatures_of

#: Name of the engine that has no copy of the weights.
EAGER: Final = "eager"
#: Size of a weight, in bytes, and the memory of a small model's graph, and of a small model in another engine.
WEIGHT_BYTES: Final = 4
GRAPH_BYTES: Final = 512 * 1024
ENGINE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DerivedModel:
    """A model that is made of a version's, and whose engines are chosen as that one's are."""

    model: ServedModel
    #: What makes it of the version's model in other processes, as "module:function".
    function: str


class VersionPart(Protocol):
    """What an extension makes of a version when it is loaded."""

    @property
    def derived(self) -> DerivedModel | None:
        """The model that it computes, if it has one that is to be tuned."""

    def close(self) -> None:
        """Called when the version is released."""


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """A version in memory. Users hold leases; a retired version is released when its last lease ends. Thread-safe."""

    found: FoundVersion
    model: ServedModel
    runner: ModelRunner
    queue: BatchQueue
    parameter_count: int
    training_run: str
    #: Called once, after it was retired and its last lease has ended.
    released: Callable[[LoadedVersion], None]
    #: The settings with which it was loaded.
    settings: ModelSettings = DEFAULTS
    #: SHA-256 digest of its files (see `version_reader.version_digest`).
    digest: str = ""
    #: Whether its model is what was kept of it, which answers requests for all of its outputs only.
    kept: bool = False
    #: Labels of the elements of a row, by output. An element without a label has an empty one, or none at the end.
    class_labels: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    #: Of inputs that requests may have as bytes, by name.
    decoders: Mapping[str, InputDecoder] = field(default_factory=dict)
    #: What extensions have made of it, by their names.
    parts: Mapping[str, VersionPart] = field(default_factory=dict)
    ready_time: float = field(default_factory=time.time)
    #: When it was loaded and last used, on the clock of `time.monotonic`, in seconds, and its number of uses.
    loaded_at: float = field(default_factory=time.monotonic)
    last_used: float = field(default_factory=time.monotonic)
    uses: int = 0
    #: Memory that it takes, in bytes (see `measure`).
    memory_bytes: int = 0
    #: Whether engines are being timed, or are to be timed.
    choosing_engine: bool = False
    #: Whether it was submitted to be tuned after it had been used often.
    tuned: bool = False
    #: Cache of the prediction service, by what requests ask for.
    endpoints: dict[Hashable, Any] = field(default_factory=dict)
    #: Cache of the graph service: its reply with all layers.
    node_shapes: bytes | None = None
    _signatures: Mapping[str, Signature] | None = None
    _users: int = 0
    _retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.found.name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.found.version

    @property
    def input_specs(self) -> Sequence[TensorSpec]:
        """The inputs of the model, those with a decoder as `EncodedSpec`."""
        return with_encodings(self.model.input_specs, self.decoders)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Names of inputs and outputs for clients that name a signature, by its key."""
        if self._signatures is None:
            self._signatures = signatures_of(self.model, self.settings.signatures or {})
        return self._signatures

    @property
    def derived(self) -> Sequence[DerivedModel]:
        """The models that extensions have made of it."""
        return [part.derived for part in self.parts.values() if part.derived is not None]

    @property
    def retired(self) -> bool:
        """Whether no further leases are granted."""
        return self._retired

    def is_of(self, found: FoundVersion, settings: ModelSettings) -> bool:
        """Whether it was loaded from these files, with these settings."""
        return self.found.fingerprint == found.fingerprint and self.settings.of_loading == settings.of_loading

    def measure(self) -> int:
        """Sets and returns the memory that it takes: its weights, the engines' copies of them, and its graph."""
        models = [self.model, *(derived.model for derived in self.derived)]
        engines = sum(len({choice.engine for choice in model.engines} - {EAGER}) for model in models)
        weights = self.parameter_count * WEIGHT_BYTES
        self.memory_bytes = GRAPH_BYTES + weights + engines * (ENGINE_BYTES + weights)
        return self.memory_bytes

    def lease(self, *, counts: bool = True) -> Lease | None:
        """Returns a new lease; None if the version is retired. One that doesn't count is no use of the version."""
        with self._lock:
            if self._retired:
                return None
            self._users += 1
            if counts:
                self.last_used = time.monotonic()
                self.uses += 1
        return Lease(self)

    def retire(self, *, only_unused: bool = False) -> bool:
        """Grants no further leases, and releases the version when the last one has ended.

        With `only_unused`, not if there is a lease. Returns whether it was retired by this.
        """
        with self._lock:
            if self._retired or (only_unused and self._users):
                return False
            self._retired = True
            unused = self._users == 0
        if unused:
            self._release()
        return True

    def give_back(self) -> None:
        """Called when a lease has ended."""
        with self._lock:
            self._users -= 1
            unused = self._retired and self._users == 0
        if unused:
            self._release()

    def _release(self) -> None:
        self.queue.close()
        for part in self.parts.values():
            part.close()
        self.released(self)


class Lease:
    """A lease of a version, which stays in memory until the lease ends: by `end`, or as a context manager."""

    __slots__ = ("_ended", "version")

    def __init__(self, version: LoadedVersion) -> None:
        self.version = version
        self._ended = False

    def end(self) -> None:
        """Ends the lease; further calls do nothing."""
        if not self._ended:
            self._ended = True
            self.version.give_back()

    def __enter__(self) -> LoadedVersion:
        return self.version

    def __exit__(self, *_: object) -> None:
        self.end()
