"""One version of a model, as the repository knows it."""

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
    """State of a version, in the words of models.proto."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class Description:
    """One version, as it stands."""

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
    #: Seconds since 1970; None before.
    ready_time: float | None
    training_run: str
    compiled: bool
    engines: tuple[EngineChoice, ...]
    choosing_engine: bool
    default: bool


@dataclass(slots=True, eq=False)
class Entry:
    """What the repository knows of one version."""

    found: FoundVersion
    state: State
    reason: str = ""
    loaded: LoadedVersion | None = None
    #: The content that was loaded, or failed to: another one is tried anew.
    tried: Fingerprint = layout.NOTHING
    #: Loaded because a request named it, not because it is the newest.
    on_demand: bool = False
    waiting: int = 0
    loading: threading.Lock = field(default_factory=threading.Lock)

    def check_usable(self) -> None:
        """Raises where it can't be used, now or ever. What is on disk can: it is loaded first."""
        if self.state is State.FAILED:
            raise VersionFailedError(f"{self.found.label} failed to load: {self.reason}")
        if self.state is State.LOADING and self.waiting == 0:
            raise UnavailableError(f"{self.found.label} is being loaded; try again in a moment")

    def description(self, labels: tuple[str, ...], *, default: bool) -> Description:
        """As it stands, with the labels that point to it, and whether it answers where a request names no version."""
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
