"""What calls change of a model: what is loaded, the default, labels, the canary, the version policy; deletion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from layerserve_server.errors import (
    InvalidRequestError,
    RefusedChangeError,
    UnknownLabelError,
    UnknownModelError,
    VersionFailedError,
    safe_text,
)
from layerserve_server.repository.changes import Change, Changes
from layerserve_server.repository.control import read_control
from layerserve_server.repository.entry import Description
from layerserve_server.repository.layout import LABEL
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.staging import unwritable
from layerserve_server.repository.version_policy import VersionPolicy
from layerserve_server.repository.version_states import State

#: Maximum number of runs that an error lists.
MAX_LISTED: Final = 5


class Manager:
    """Changes which versions of a model are loaded, and which answer. `who` is the name of the caller.

    All methods raise UnknownModelError, UnknownVersionError, UnavailableError before the models have been read, and as
    `Changes.make` does.
    """

    def __init__(
        self,
        repository: Repository,
        changes: Changes,
        *,
        open_work: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        """`open_work` returns the work on a model that hasn't ended, in words."""
        self._repository = repository
        self._catalogue = repository.catalogue
        self._rollout = repository.rollout
        self._publisher = repository.publisher
        self._changes = changes
        self._open_work = open_work

    # What is loaded.

    def load(self, name: str, who: str) -> Change:
        """Loads a model, or reads its files and settings again. Raises VersionFailedError if it can't be loaded."""
        with self._changes.make(who, "load", name):
            self._repository.scan(name)
            before = self._catalogue.control(name).loaded
            self._write(name, loaded=True)
            self._repository.scan_all_of(name)
            self._rollout.load_default(name)
            serving, problems = self._default(name), self._catalogue.problems(name)
            if problems:
                if serving is None:
                    self._write(name, loaded=before)
                    self._repository.scan(name)
                self._changes.follow(name)
                others = f"; version {serving} serves" if serving else ""
                reasons = "; ".join(f"version {version}: {reason}" for version, reason in problems.items())
                raise VersionFailedError(f"model '{name}' can't be loaded: {reasons}{others}")
            return self._changes.made(name)

    def unload(self, name: str, who: str) -> Change:
        """Unloads a model. Its requests are refused until it is loaded again."""
        with self._changes.make(who, "unload", name):
            self._known(name)
            self._set(name, {"loaded": False})
            return self._changes.made(name)

    # The default version.

    def pin(self, name: str, version: int, who: str) -> Change:
        """Makes a version the default. Raises VersionFailedError if it can't be loaded.

        A canary whose version it is ends.
        """
        with self._changes.make(who, "pin", name, to=version) as record:
            record["from"] = self._default(name)
            self._pin(name, version)
            self._end_promoted_canary(name)
            return self._changes.made(name)

    def unpin(self, name: str, who: str) -> Change:
        """Makes the version of the settings, or the newest that is ready, the default again.

        A canary whose version it is ends.
        """
        with self._changes.make(who, "unpin", name) as record:
            record["from"] = self._default(name)
            self._set(name, {"pinned": None})
            record["to"] = self._default(name)
            self._end_promoted_canary(name)
            return self._changes.made(name)

    def roll_back(self, name: str, version: int, who: str) -> tuple[int, Change]:
        """Pins a version; if 0, the highest below the default that can be loaded. Returns its number.

        Ends the canary, so that no caller stays on another version. Raises VersionFailedError if none can be loaded.
        """
        with self._changes.make(who, "roll back", name) as record:
            default = record["from"] = self._default(name)
            share = self._catalogue.serving(name)["canary"]
            if version:
                candidates = [version]
            else:
                versions = self._catalogue.describe(name)
                candidates = [one.version for one in versions if default is not None and one.version < default]
            reasons = []
            for candidate in candidates:
                try:
                    self._rollout.ensure_loaded(name, candidate)
                except VersionFailedError as error:
                    reasons.append(str(error))
                    continue
                record["to"] = candidate
                if share:
                    record["ended_canary"] = share
                self._pin(name, candidate, **({"canary": 0.0} if share else {}))
                return candidate, self._changes.made(name)
            ends = "; a canary ends when its share is set to 0%" if share else ""
            raise VersionFailedError(
                "; ".join(reasons)
                or f"model '{name}' has no version below its default, {default}, to roll back to{ends}"
            )

    def _pin(self, name: str, version: int, **values: Any) -> None:
        """Makes a version the default, and sets other values in the same write."""
        self._rollout.ensure_loaded(name, version)

        def problem() -> str:
            default = self._default(name)
            return "" if default == version else f"model '{name}' version {version} can't be made the default"

        self._set(name, {"pinned": version, **values}, problem)

    def _end_promoted_canary(self, name: str) -> None:
        """Ends a canary whose version has become the default.

        Otherwise its share would return unasked, once another version is the default.
        """
        if self._catalogue.control(name).canary is None:
            return
        label = self._catalogue.settings(name).canary_label
        default = self._default(name)
        if default is not None and self._catalogue.labels(name).get(label) == default:
            self._set(name, {"canary": None})

    # Labels.

    def set_label(self, name: str, label: str, version: int, who: str) -> Change:
        """Points a label at a version. Raises VersionFailedError if it can't be loaded, InvalidRequestError."""
        with self._changes.make(who, "set label", name, label=label, to=version) as record:
            check_label(label)
            record["from"] = self._catalogue.labels(name).get(label)
            self._rollout.ensure_loaded(name, version)
            self._on_disk(lambda: self._publisher.writer.write_label(name, label, version))
            self._repository.refresh(name)
            if self._catalogue.serving(name)["labels"].get(label) != version:
                # Its file has gone or changed meanwhile.
                self._on_disk(lambda: self._restore_label(name, label, record["from"]))
                self._repository.refresh(name)
                raise VersionFailedError(f"model '{name}' version {version} can't be loaded, so the label stays")
            return self._changes.made(name)

    def _restore_label(self, name: str, label: str, version: int | None) -> None:
        if version is None:
            self._publisher.writer.remove_label(name, label)
        else:
            self._publisher.writer.write_label(name, label, version)

    def remove_label(self, name: str, label: str, who: str) -> Change:
        """Removes a label. Raises UnknownLabelError."""
        with self._changes.make(who, "remove label", name, label=label) as record:
            labels = self._catalogue.labels(name)
            if label not in labels:
                raise UnknownLabelError(f"model '{name}' has no label '{safe_text(label, 150)}'")
            record["from"] = labels[label]
            self._on_disk(lambda: self._publisher.writer.remove_label(name, label))
            self._repository.refresh(name)
            return self._changes.made(name)

    def set_canary(self, name: str, share: float | None, who: str) -> tuple[float, Change]:
        """Sets the share of callers that get the canary; None for that of the settings. Returns the share in force.

        Raises InvalidRequestError if it isn't from 0 to 1, RefusedChangeError if there is no version for the canary or
        it is the default, VersionFailedError if it can't be loaded.
        """
        with self._changes.make(who, "set canary", name, to=share) as record:
            record["from"] = self._catalogue.serving(name)["canary"]
            if share is not None and not 0 <= share <= 1:
                raise InvalidRequestError(f"share: got {share:g}, expected a number from 0 to 1")
            self._known(name)
            label = self._catalogue.settings(name).canary_label
            version = self._catalogue.labels(name).get(label)
            if share and version is None:
                raise RefusedChangeError(f"model '{name}' has no label '{label}', at whose version the share would go")
            if share and version is not None:
                self._rollout.ensure_loaded(name, version)
                if self._catalogue.serving(name)["default"] == version:
                    raise RefusedChangeError(
                        f"model '{name}' version {version}, which has the label '{label}', is the default, so that all "
                        "callers get it: pin another version first"
                    )
            self._set(name, {"canary": share})
            return self._catalogue.serving(name)["canary"], self._changes.made(name)

    def set_version_policy(self, name: str, policy: VersionPolicy | None, who: str) -> Change:
        """Sets which versions are kept loaded and served, in place of the model's settings; None for theirs.

        Raises RefusedChangeError if a label points at a version that wouldn't be served, and VersionFailedError if a
        version that the policy names can't be loaded.
        """
        new = policy or VersionPolicy.of(self._catalogue.file_settings(name))
        with self._changes.make(who, "set version policy", name, to=str(new)) as record:
            record["from"] = str(VersionPolicy.of(self._catalogue.settings(name)))
            self._known(name)
            for version in new.specific_versions:
                self._catalogue.describe_one(name, version)
            if self._catalogue.serving(name)["loaded"]:
                check_labels_served(name, self._catalogue.labels(name), new)

            def problem() -> str:
                reasons = [
                    f"version {one.version}: {one.reason}"
                    for one in self._catalogue.describe(name)
                    if one.version in new.specific_versions and one.state is State.FAILED
                ]
                return f"model '{name}': the version policy stays, as {'; '.join(reasons)}" if reasons else ""

            self._set(name, {"policy": None if policy is None else policy.as_json()}, problem)
            return self._changes.made(name)

    # Deletion.

    def delete_version(self, name: str, version: int, who: str, *, force: bool = False) -> Change:
        """Deletes a version. Raises RefusedChangeError if a label points at it, or it is the default or pinned.

        With `force`, the latter two are no reason.
        """
        with self._changes.make(who, "delete version", name, version=version, force=force):
            found = self._catalogue.describe_one(name, version)
            labels = sorted(label for label, number in self._catalogue.labels(name).items() if number == version)
            if labels:
                raise RefusedChangeError(
                    f"model '{name}' version {version}: label '{labels[0]}' points at it; move or remove it first"
                )
            control = self._catalogue.control(name)
            if not force and (found.default or control.pinned == version):
                reason = "it is the default" if found.default else "it is pinned"
                raise RefusedChangeError(f"model '{name}' version {version}: {reason}; use force to delete it anyway")
            self._publisher.check_deletable(name)
            values: dict[str, Any] = {"highest": self._publisher.highest(name)}
            if control.pinned == version:
                values["pinned"] = None
            self._write(name, **values)
            self._on_disk(lambda: self._publisher.writer.withdraw(name, version, found.path))
            self._repository.refresh(name)
            return self._changes.made(name)

    def delete_model(self, name: str, who: str, *, force: bool = False) -> Sequence[str]:
        """Deletes a model. Returns the processes that lag behind.

        Raises RefusedChangeError if work on it hasn't ended, or it is loaded. With `force`, neither is a
        reason; then the results of those runs are withheld.
        """
        with self._changes.make(who, "delete model", name, force=force) as record:
            versions = self._known(name)
            record["from"] = [one.version for one in versions]
            # Before the next check: its error advises force, which withholds the results of open runs.
            if not force and (work := self._open_work(name)):
                listed = ", ".join(work[:MAX_LISTED]) + f" and {len(work) - MAX_LISTED} more" * (len(work) > MAX_LISTED)
                raise RefusedChangeError(
                    f"model '{name}' is being trained by {listed}: cancel them, or use force, after which they publish "
                    "nothing"
                )
            if not force and any(one.answers or one.state is State.LOADING for one in versions):
                raise RefusedChangeError(f"model '{name}': it is loaded; unload it first, or use force")
            self._publisher.check_deletable(name)
            highest = self._publisher.highest(name)
            self._on_disk(lambda: self._publisher.writer.withdraw_model(name, highest))
            self._repository.refresh(name)
            return self._changes.follow(name)

    # Parts of all changes.

    def _known(self, name: str) -> Sequence[Description]:
        versions = self._catalogue.describe(name)
        if not versions:
            self._catalogue.describe_one(name)  # raises, with the closest name
            raise UnknownModelError(f"unknown model '{name}'")
        return versions

    def _default(self, name: str) -> int | None:
        return next((one.version for one in self._known(name) if one.default), None)

    def _set(self, name: str, values: Mapping[str, Any], problem: Callable[[], str] = lambda: "") -> None:
        """Writes values of `control`, which take effect. If they have a problem then, writes those before.

        Raises VersionFailedError with the problem.
        """
        before = self._catalogue.control(name).as_json()
        self._write(name, **values)
        self._repository.refresh(name)
        if text := problem():
            self._write(name, **{key: before.get(key) for key in values})
            self._repository.refresh(name)
            raise VersionFailedError(text)

    def _write(self, name: str, **values: Any) -> None:
        self._known(name)
        self._on_disk(lambda: self._publisher.writer.write_control(name, **values))
        self._catalogue.set_control(name, read_control(self._repository.folder.of_model(name)))

    @staticmethod
    def _on_disk(write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise unwritable(error) from error


def check_labels_served(name: str, labels: Mapping[str, int], policy: VersionPolicy) -> None:
    """Raises RefusedChangeError if a label points at a version that a policy doesn't serve."""
    for label, version in sorted(labels.items()):
        if not policy.serves(version):
            raise RefusedChangeError(
                f"model '{safe_text(name, 150)}': label '{label}' points at version {version}, which the version "
                f"policy '{policy}' doesn't serve; move or remove it first"
            )


def check_label(label: str) -> None:
    """Raises InvalidRequestError if a label can't have this name."""
    if label.isdigit():  # paths of the Open Inference Protocol have the one or the other in the same place
        raise InvalidRequestError(f"label: got '{label[:20]}', a version's number, expected a name such as 'stable'")
    if not LABEL.fullmatch(label):
        raise InvalidRequestError(
            f"label: got '{safe_text(label, 150)}', expected letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit"
        )
