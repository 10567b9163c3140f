"""The repository's record of a version."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.inference.runner import EngineChoice, TensorSpec
from layerserve_server.repository import layout
from layerserve_server.repository.layout import Fingerprint, FoundVersion
from layerserve_server.repository.version import LoadedVersion


class State(Enum):
    """State of a version, as in models.proto."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class Description:
    """Snapshot of a version, as reported to clients. `reason` is the error of a failed version."""

    name: str
    version: int
    state: State
    reason: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    path: Path
    file_bytes: int
    keras_version: str
    parameter_count: int
    #: Unix time at which it was loaded, in seconds; None if it isn't loaded.
    ready_time: float | None
    #: Id of the training run that published it; empty if none did.
    training_run: str
    compiled: bool
    engines: tuple[EngineChoice, ...]
    #: Whether engines are being timed.
    choosing_engine: bool
    #: Whether it serves requests that name no version.
    default: bool


@dataclass(slots=True, eq=False)
class Entry:
    """The repository's mutable record of a version."""

    found: FoundVersion
    state: State
    reason: str = ""
    loaded: LoadedVersion | None = None
    #: Fingerprint of the file that was last loaded or failed to load; a changed file is loaded again.
    tried: Fingerprint = layout.NOTHING
    #: Whether it was loaded for a request that named it, not as the newest version.
    on_demand: bool = False
    #: Number of requests that wait until it is loaded.
    waiting: int = 0
    #: Held while it is being loaded.
    loading: threading.Lock = field(default_factory=threading.Lock)

    def check_usable(self) -> None:
        """Raises VersionFailedError if the version failed to load, UnavailableError if it is being loaded.

        A version that isn't loaded is usable: it is loaded on demand.
        """
        if self.state is State.FAILED:
            raise VersionFailedError(f"{self.found.label} failed to load: {self.reason}")
        if self.state is State.LOADING and self.waiting == 0:
            raise UnavailableError(f"{self.found.label} is being loaded; try again in a moment")

    def description(self, labels: tuple[str, ...], *, default: bool) -> Description:
        """Returns a snapshot with its labels, and whether it serves requests that name no version."""
        found, loaded = self.found, self.loaded
        return Description(
            name=found.name,
            version=found.version,
            state=self.state,
            reason=self.reason,
            labels=labels,
            inputs=tuple(loaded.model.input_specs) if loaded else (),
            outputs=tuple(loaded.model.output_specs) if loaded else (),
            path=found.path,
            file_bytes=found.size,
            keras_version=(loaded.model.keras_version or "") if loaded else "",
            parameter_count=loaded.parameter_count if loaded else 0,
            ready_time=loaded.ready_time if loaded else None,
            training_run=loaded.training_run if loaded else "",
            compiled=loaded.model.compiled if loaded else False,
            engines=tuple(loaded.model.engines) if loaded else (),
            choosing_engine=loaded.choosing_engine if loaded else False,
            default=default,
        )
