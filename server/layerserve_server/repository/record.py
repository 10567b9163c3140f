"""The repository's record of a model: its versions, labels and settings, and the choice among the versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layergraph.errors import unknown_name

from layerserve_server.errors import UnknownLabelError, UnknownVersionError, error_text
from layerserve_server.repository.canary import Canary, read_share
from layerserve_server.repository.control import CONTROL, Control, read_control
from layerserve_server.repository.entry import Description, Entry
from layerserve_server.repository.layout import LABELS
from layerserve_server.repository.model_settings import (
    DEFAULTS,
    SETTINGS_FILE,
    ModelSettings,
    ModelSettingsError,
    parse_settings,
    read_content,
)
from layerserve_server.repository.publishing import UnreadableFileError, read_labels
from layerserve_server.repository.version_states import State

#: Reason why the versions of an unloaded model aren't served.
UNLOADED = "the model isn't loaded; LoadModel loads it"


@dataclass(slots=True, eq=False)
class ModelRecord:
    """The repository's mutable record of a model. Changed with the repository's lock held."""

    name: str
    #: Each returns a version that computes requests which don't name it, such as a shadow; None if there is none.
    routes: Sequence[Callable[[ModelRecord], int | None]] = ()
    #: The settings of a model without any.
    defaults: ModelSettings = DEFAULTS
    versions: dict[int, Entry] = field(default_factory=dict)
    #: Versions by label: in effect, in the file, and in the file when it was read before.
    labels: dict[str, int] = field(default_factory=dict)
    file_labels: Mapping[str, int] = field(default_factory=dict)
    earlier_labels: Mapping[str, int] = field(default_factory=dict)
    control: Control = field(default_factory=Control)
    #: Whether its versions are to be loaded.
    loaded: bool = True
    #: None if its file has never been valid.
    settings: ModelSettings | None = None
    #: Files of the model that have never been valid: what is wanted of it isn't known.
    unknown: frozenset[str] = frozenset((SETTINGS_FILE, CONTROL, LABELS))
    #: Why files of the model aren't in force; empty if all are.
    problem: str = ""
    #: Versions that the policy keeps loaded.
    kept: frozenset[int] = frozenset()
    #: Versions that are to be loaded, and are being fetched.
    coming: tuple[int, ...] = ()
    #: The default after the last scan, which stays the default until another can be.
    last_default: int | None = None
    #: Content of the settings file when it was last read.
    _content: bytes | None = None

    @property
    def settings_content(self) -> bytes | None:
        """Content of the file of the settings in force; None if there is none."""
        return self._content

    @property
    def has_settings_file(self) -> bool:
        """Whether the settings come from a file. An empty one, as a full disk leaves it, says nothing."""
        return bool(self._content)

    @property
    def in_force(self) -> ModelSettings:
        """The settings in force; the defaults if the file has never been valid. A call may have set another policy."""
        settings, policy = self.settings or self.defaults, self.control.policy
        return settings if policy is None else policy.over(settings)

    @property
    def target(self) -> int | None:
        """The version that a call or the settings made the default; None for the newest that is ready.

        One that the policy in force excludes doesn't count: the policy was set later.
        """
        settings = self.in_force
        for version in (self.control.pinned, settings.default_version):
            if version is not None and settings.serves(version):
                return version
        return None

    def default(self) -> int | None:
        """Returns the version for requests that name none; None if none is ready, or on standby.

        While the target isn't ready, the version that was the default before stays it, and no other one becomes it.
        """
        target = self.target
        if target is None:
            return max((number for number, entry in self.versions.items() if entry.answers), default=None)
        for number in (target, self.last_default):
            if number in self.versions and self.versions[number].answers:
                return number
        return None

    @property
    def canary_share(self) -> float:
        """Share of callers that get the canary, from 0 to 1: that of a call, or else that of the settings."""
        if self.control.canary is not None:
            return self.control.canary
        return 0.0 if self.in_force.canary is None else read_share(self.in_force.canary)

    def canary(self) -> Canary | None:
        """Returns the canary in force: None if there is none, its version isn't ready, or is the default anyway."""
        share, version = self.canary_share, self.labels.get(self.in_force.canary_label)
        entry = None if version is None else self.versions.get(version)
        if not share or entry is None or not entry.answers or entry.found.version == self.default():
            return None
        return Canary(self.name, entry.found.version, share)

    def routed(self) -> set[int]:
        """Returns the versions that get requests which don't name them, and so are loaded before these come."""
        canary = self.labels.get(self.in_force.canary_label) if self.canary_share else None
        return {version for version in (canary, *(route(self) for route in self.routes)) if version is not None}

    def order(self) -> Iterator[int]:
        """Yields the versions in the order in which they are loaded: the target, then newest first."""
        target = self.target
        if target in self.versions:
            yield target
        yield from (number for number in sorted(self.versions, reverse=True) if number != target)

    def move_labels(self, *, only_ready: bool) -> None:
        """Moves labels to the versions that the file names; with `only_ready`, not before these are loaded.

        A label also moves if the version to which it points can't answer.
        """
        before, self.labels = self.labels, {}
        for label, version in self.file_labels.items():
            old, new = self.versions.get(before.get(label, 0)), self.versions.get(version)
            if new is None:
                # It may have come after this scan had listed the versions. Then the next scan finds it.
                missing = self.earlier_labels.get(label) != version
            else:
                missing = new.loaded is None and not new.standby
            waits = only_ready and missing and old is not None and old.loaded is not None
            self.labels[label] = before[label] if waits else version

    def entry(self, version: int | None, label: str | None, *, any_state: bool = False) -> Entry:
        """Returns the version with this number or label, or else the default.

        Raises UnknownVersionError, UnknownLabelError, and unless `any_state` as `Entry.check_usable` does.
        """
        if label is not None:
            if label not in self.labels:
                raise UnknownLabelError(f"model '{self.name}': {unknown_name('label', label, self.labels)}")
            version = self.labels[label]
        pointed = f", to which label '{label}' points" if label is not None else ""
        if version is None:
            version = self.default()
            if version is None and self.target is not None:
                version, pointed = self.target, ", which was made its default"
        if version is not None:
            if version not in self.versions:
                known = ", ".join(map(str, sorted(self.versions, reverse=True)[:10]))
                text = f"model '{self.name}' has no version {version}{pointed}; it has {known}"
                raise UnknownVersionError(text, self.name, version, f"it has {known}")
            entry = self.versions[version]
        else:
            # The newest that hasn't failed is the next to become ready.
            working = [number for number, entry in self.versions.items() if entry.state is not State.FAILED]
            entry = self.versions[max(working or self.versions)]
        if not any_state:
            entry.check_usable()
        return entry

    def description(self, entry: Entry) -> Description:
        """Returns a snapshot of a version."""
        version, default = entry.found.version, entry.found.version == self.default()
        pointing = tuple(sorted(label for label, number in self.labels.items() if number == version))
        is_canary = not default and self.in_force.canary_label in pointing
        return entry.description(
            pointing,
            default=default,
            pinned=version == self.control.pinned,
            canary_share=self.canary_share if is_canary else 0.0,
            listed=version in self.kept or version in self.routed() or bool(pointing) or default,
            problem=self.problem,
        )

    def choice(self) -> tuple[object, ...]:
        """What the choice among the versions depends on: equal as long as requests get the same versions."""
        versions = [(n, e.state, e.barred, e.standby, id(e.loaded)) for n, e in self.versions.items()]
        return versions, dict(self.labels), self.control, self.in_force, self.last_default, self.loaded

    def bar(self, *, keep_loaded: bool) -> None:
        """Sets which versions may not be loaded: all of an unloaded model, and those that its policy excludes.

        With `keep_loaded`, the policy doesn't apply to loaded versions yet, since others must be loaded first.
        """
        settings = self.in_force
        for number, entry in self.versions.items():
            if not self.loaded:
                entry.barred = UNLOADED
            elif settings.serves(number) or (keep_loaded and entry.loaded is not None):
                entry.barred = ""
            else:
                listed = ", ".join(map(str, settings.specific_versions))
                source = "the model's settings serve" if self.control.policy is None else "the policy of a call serves"
                entry.barred = f"{source} version {listed} only"

    def read(self, folder: Path, beside: Path) -> bool:
        """Reads settings, labels and what calls have set from the model's folder, settings also from a file `beside`.

        What is invalid leaves what was in force before. Returns whether something is newly wrong.
        """
        readers: dict[str, Callable[[], None]] = {
            SETTINGS_FILE: lambda: self._read_settings(folder, beside),
            CONTROL: lambda: self._read_control(folder),
            LABELS: lambda: self._read_labels(folder),
        }
        problems = []
        for name, read in readers.items():
            try:
                read()
            except (ModelSettingsError, UnreadableFileError) as error:
                problems.append(error_text(error))
            else:
                self.unknown -= {name}
        before, self.problem = self.problem, "; ".join(problems)
        return bool(problems) and self.problem != before

    def _read_settings(self, folder: Path, beside: Path) -> None:
        content, name = read_content(folder / SETTINGS_FILE), SETTINGS_FILE
        if (other := read_content(beside)) is not None:
            if content is not None:
                raise ModelSettingsError(f"got both {SETTINGS_FILE} and {beside.name}, expected one of the two")
            content, name = other, beside.name
        if content != self._content or self.settings is None or self.problem:
            self.settings = self.defaults if content is None else parse_settings(content, name, type(self.defaults))
        self._content = content

    def _read_control(self, folder: Path) -> None:
        self.control = read_control(folder)

    def _read_labels(self, folder: Path) -> None:
        self.earlier_labels, self.file_labels = self.file_labels, read_labels(folder)

    def in_force_as_json(self) -> dict[str, Any]:
        """Returns the settings, the labels and what calls have set, as JSON values."""
        settings = (self.settings or self.defaults).model_dump(mode="json", exclude_unset=True)
        return {"settings": settings, "control": self.control.as_json(), "labels": dict(self.file_labels)}

    def set_in_force(self, values: Mapping[str, Any]) -> None:
        """Sets the values of `in_force_as_json`, until the files are valid. Raises ValueError."""
        self.settings = type(self.defaults).model_validate(values["settings"])
        self.control, self.file_labels = Control.of(values["control"]), dict(values["labels"])
        self.unknown = frozenset()
