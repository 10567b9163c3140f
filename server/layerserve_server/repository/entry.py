"""The repository's record of a version."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from layerserve_server.errors import NotLoadedError, UnavailableError, VersionFailedError
from layerserve_server.inference.runner import EngineChoice, TensorSpec
from layerserve_server.repository import layout
from layerserve_server.repository.layout import Fingerprint, FoundVersion
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.version import GRAPH_BYTES, LoadedVersion
from layerserve_server.repository.version_states import TRANSITIONS, Event, State


@dataclass(frozen=True, slots=True)
class Description:
    """Snapshot of a version, as reported to clients.

    `reason` is why it failed or isn't served, or why its file or settings on disk aren't those in use.
    """

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
    #: Whether a call made it the default.
    pinned: bool = False
    #: Whether it answers requests: it is ready, or a request loads it that finds it as the others do.
    answers: bool = False
    #: Memory that it takes, in bytes; 0 if it isn't loaded.
    memory_bytes: int = 0
    #: Unix time of its last use, in seconds; None if it hasn't been used.
    used_time: float | None = None
    #: Share of callers that get it as the model's canary when they name no version, from 0 to 1; 0 for other versions.
    canary_share: float = 0.0
    #: Whether each row of its outputs depends on its row of the inputs only; False if it was never loaded.
    independent_rows: bool = False
    #: SHA-256 digest of its files; empty if it was never loaded.
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is reported of a version that was loaded, also after it was unloaded."""

    fingerprint: Fingerprint = layout.NOTHING
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    keras_version: str = ""
    parameter_count: int = 0
    training_run: str = ""
    compiled: bool = False
    memory_bytes: int = 0
    independent_rows: bool = False
    digest: str = ""

    @classmethod
    def of(cls, loaded: LoadedVersion) -> Facts:
        """Returns those of a version."""
        model = loaded.model
        return cls(
            loaded.found.fingerprint,
            tuple(loaded.input_specs),
            tuple(model.output_specs),
            model.keras_version or "",
            loaded.parameter_count,
            loaded.training_run,
            model.compiled,
            loaded.memory_bytes,
            model.plan().batched,
            loaded.digest,
        )


NO_FACTS: Final = Facts()


@dataclass(slots=True, eq=False)
class Entry:
    """The repository's mutable record of a version."""

    found: FoundVersion
    state: State
    reason: str = ""
    loaded: LoadedVersion | None = None
    #: Why it may not be loaded; empty if it may.
    barred: str = ""
    #: Fingerprint of the file that was last loaded or failed to load; a changed file is loaded again.
    tried: Fingerprint = layout.NOTHING
    #: Settings with which that was tried; if those of loading change, it is loaded again.
    tried_with: ModelSettings = DEFAULTS
    #: Number of further tries after a failure, and the time of the next, on the clock of `time.monotonic`, in seconds.
    retries: int = 0
    retry_at: float = math.inf
    #: Whether it was loaded for a request that named it, not as the newest version.
    on_demand: bool = False
    #: Whether it is gone from the disk, and answers only until another version can.
    leaving: bool = False
    #: Whether it answers without being loaded, as the first request loads it (see `memory_limit`).
    standby: bool = False
    #: What was learned of it when it was last loaded.
    facts: Facts = NO_FACTS
    #: Unix time of its last use before it was loaded, in seconds; 0 if it wasn't used.
    used: float = 0.0
    #: Number of requests that wait until it is loaded.
    waiting: int = 0
    #: Held while it is being loaded.
    loading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answers(self) -> bool:
        """Whether it is ready, or on standby and hasn't failed to load, and may be loaded."""
        return not self.barred and (self.state is State.READY or (self.standby and self.state is not State.FAILED))

    @property
    def used_at(self) -> float:
        """Unix time of its last use, in seconds; 0 if it wasn't used."""
        loaded = self.loaded
        if loaded is None or not loaded.uses:
            return self.used
        return time.time() - (time.monotonic() - loaded.last_used)

    @property
    def expected_bytes(self) -> int:
        """About the memory that it will take: what it took when it was last loaded, or else the size of its file."""
        known = self.facts.memory_bytes if self.facts.fingerprint == self.found.fingerprint else 0
        return known or self.found.size + GRAPH_BYTES

    def happened(self, event: Event, reason: str | None = None) -> None:
        """Sets the state that follows an event, and its reason: a new state has none unless one is given."""
        before, self.state = self.state, TRANSITIONS[self.state].get(event, self.state)
        if reason is not None or self.state is not before:
            self.reason = reason or ""

    def check_usable(self) -> None:
        """Raises VersionFailedError if the version failed to load, UnavailableError if it is being loaded.

        Raises NotLoadedError if it may not be loaded. A version that isn't loaded is usable: it is loaded on demand.
        """
        if self.barred:
            raise NotLoadedError(f"{self.found.label} isn't served: {self.barred}")
        if self.state is State.FAILED:
            raise VersionFailedError(f"{self.found.label} failed to load: {self.reason}")
        if self.state is State.LOADING and self.waiting == 0 and not self.standby:
            raise UnavailableError(f"{self.found.label} is being loaded; try again in a moment")

    def changed(self, settings: ModelSettings) -> bool:
        """Whether the file or the settings of loading aren't those that were last tried, or it is to be tried again."""
        if self.tried != self.found.fingerprint or self.tried_with.of_loading != settings.of_loading:
            return True
        return self.retry_at <= time.monotonic()

    def description(
        self,
        labels: tuple[str, ...],
        *,
        default: bool,
        pinned: bool = False,
        canary_share: float = 0.0,
        listed: bool = False,
        problem: str = "",
    ) -> Description:
        """Returns a snapshot with its labels, and whether it serves requests that name no version.

        `canary_share` is the share of callers to whom it answers as the canary, `listed` whether it would stay loaded
        if there were no limit, and `problem` why the settings file isn't in force; empty if it is.
        """
        found, loaded, facts = self.found, self.loaded, self.facts
        if facts.fingerprint != found.fingerprint and loaded is None:
            facts = NO_FACTS
        out = self.barred != "" and loaded is None and self.state is not State.UNLOADING
        reasons = [self.barred if out else self.reason, problem]
        return Description(
            name=found.name,
            version=found.version,
            state=State.UNLOADED if out else self.state,
            reason="; ".join(dict.fromkeys(filter(None, reasons))),
            labels=labels,
            inputs=facts.inputs,
            outputs=facts.outputs,
            path=found.path,
            file_bytes=found.size,
            keras_version=facts.keras_version,
            parameter_count=facts.parameter_count,
            ready_time=loaded.ready_time if loaded else None,
            training_run=facts.training_run,
            compiled=facts.compiled,
            engines=tuple(loaded.model.engines) if loaded else (),
            choosing_engine=loaded.choosing_engine if loaded else False,
            default=default,
            pinned=pinned,
            answers=self.state is State.READY or (not out and listed and self.answers),
            memory_bytes=loaded.memory_bytes if loaded else 0,
            used_time=self.used_at or None,
            canary_share=canary_share,
            independent_rows=facts.independent_rows,
            digest=facts.digest,
        )
