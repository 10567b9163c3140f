"""Changes of the repository by calls: each is written to disk, takes effect in all processes, and is audited."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from layerserve_server.errors import (
    BusyError,
    InvalidRequestError,
    RefusedChangeError,
    ServerError,
    UnknownLabelError,
    UnknownModelError,
    VersionFailedError,
    safe_text,
)
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.control import read_control
from layerserve_server.repository.differences import differences
from layerserve_server.repository.entry import Description, State
from layerserve_server.repository.layout import LABEL
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.staging import DeclaredFile, Staging, check_name, unwritable
from layerserve_server.repository.version_policy import VersionPolicy

logger = logging.getLogger(__name__)

#: Maximum number of changes that wait for one another; more would occupy the threads of other calls.
MAX_WAITING: Final = 8
#: Time after which a refused caller may retry, in seconds.
RETRY_SECONDS: Final = 2.0
#: Maximum number of runs that an error lists.
MAX_LISTED: Final = 5

#: Has the other processes scan a model, and returns those in which it isn't as it is here, each with the reason.
Follow = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Change:
    """A model after a change: its versions, newest first, and the processes that lag behind, with the reasons.

    `differences` are those of an uploaded version from the default before (see `differences`).
    """

    versions: Sequence[Description]
    lagging: Sequence[str]
    differences: Sequence[str] = ()


class Manager:
    """Changes the repository. One change is made at a time. `who` is the name of the caller, for the audit log.

    All methods raise UnknownModelError, UnknownVersionError, RefusedChangeError if the disk can't be written, BusyError
    if too many changes wait, and UnavailableError before the models have been read.
    """

    def __init__(
        self,
        repository: Repository,
        audit: AuditLog,
        follow: Follow = lambda name: (),
        *,
        max_upload_bytes: int,
        open_work: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        """`open_work` returns the work on a model that hasn't ended, in words."""
        self._repository = repository
        self._audit = audit
        self._follow = follow
        self._max_upload_bytes = max_upload_bytes
        self._open_work = open_work
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._testing = threading.Lock()

    # Uploads.

    def stage(self, name: str, files: Sequence[DeclaredFile], label: str, who: str) -> Staging:
        """Begins an upload. Raises as `Staging` does, and InvalidRequestError for a label that can't be one."""
        self._repository.describe(name)  # raises before the models have been read
        try:
            self._repository.check_changeable(name)
            if label:
                check_label(label)
            return Staging(self._repository.root, name, files, self._max_upload_bytes)
        except ServerError as error:
            self._note_refused(who, "upload", name, error)
            raise

    def publish(self, staging: Staging, label: str, who: str) -> tuple[int, Change]:
        """Tests a version that was received, and publishes it. Returns its number.

        Raises InvalidRequestError if its files are no version, VersionFailedError if it can't be loaded.
        """
        name = staging.name
        try:
            uploaded = staging.settings()
            settings = uploaded[0] if uploaded else self._repository.settings(name)
            found = staging.found({"created": time.time(), "uploaded_by": who})
            with self._testing:
                self._repository.test(found, settings)
        except ServerError as error:
            self._note_refused(who, "upload", name, error)
            raise
        details: dict[str, Any] = {"bytes": staging.bytes, **({"label": label} if label else {})}
        with self._change(who, "upload", name, **details) as record:
            above, content = self._repository.highest(name), uploaded[1] if uploaded else None
            before = next((one for one in self._repository.describe(name) if one.default), None)
            try:
                version = self._repository.writer.publish_folder(name, staging.folder, above=above, settings=content)
            except OSError as error:
                raise unwritable(error) from error
            record["version"] = version
            self._repository.take(name, version, label)
            change = self._finish(name)
            after = next((one for one in change.versions if one.version == version), None)
            return version, replace(change, differences=differences(before, after))

    # What is loaded.

    def load(self, name: str, who: str) -> Change:
        """Loads a model, or reads its files and settings again. Raises VersionFailedError if it can't be loaded."""
        with self._change(who, "load", name):
            self._repository.scan(name)
            before = self._repository.control(name).loaded
            self._write(name, loaded=True)
            self._repository.scan_all_of(name)
            self._repository.load_default(name)
            serving, problems = self._default(name), self._repository.problems(name)
            if problems:
                if serving is None:
                    self._write(name, loaded=before)
                    self._repository.scan(name)
                self._follow(name)
                others = f"; version {serving} serves" if serving else ""
                reasons = "; ".join(f"version {version}: {reason}" for version, reason in problems.items())
                raise VersionFailedError(f"model '{name}' can't be loaded: {reasons}{others}")
            return self._finish(name)

    def unload(self, name: str, who: str) -> Change:
        """Unloads a model. Its requests are refused until it is loaded again."""
        with self._change(who, "unload", name):
            self._known(name)
            self._write(name, loaded=False)
            self._repository.refresh(name)
            return self._finish(name)

    # The default version.

    def pin(self, name: str, version: int, who: str) -> Change:
        """Makes a version the default. Raises VersionFailedError if it can't be loaded.

        A canary whose version it is ends.
        """
        with self._change(who, "pin", name, to=version) as record:
            record["from"] = self._default(name)
            self._pin(name, version)
            self._end_promoted_canary(name)
            return self._finish(name)

    def unpin(self, name: str, who: str) -> Change:
        """Makes the version of the settings, or the newest that is ready, the default again.

        A canary whose version it is ends.
        """
        with self._change(who, "unpin", name) as record:
            record["from"] = self._default(name)
            self._write(name, pinned=None)
            self._repository.refresh(name)
            record["to"] = self._default(name)
            self._end_promoted_canary(name)
            return self._finish(name)

    def roll_back(self, name: str, version: int, who: str) -> tuple[int, Change]:
        """Pins a version; if 0, the highest below the default that can be loaded. Returns its number.

        Ends the canary, so that no caller stays on another version. Raises VersionFailedError if none can be loaded.
        """
        with self._change(who, "roll back", name) as record:
            default = record["from"] = self._default(name)
            share = self._repository.serving(name)["canary"]
            if version:
                candidates = [version]
            else:
                versions = self._repository.describe(name)
                candidates = [one.version for one in versions if default is not None and one.version < default]
            reasons = []
            for candidate in candidates:
                try:
                    self._repository.ensure_loaded(name, candidate)
                except VersionFailedError as error:
                    reasons.append(str(error))
                    continue
                record["to"] = candidate
                if share:
                    record["ended_canary"] = share
                self._pin(name, candidate, **({"canary": 0.0} if share else {}))
                return candidate, self._finish(name)
            ends = "; a canary ends when its share is set to 0%" if share else ""
            raise VersionFailedError(
                "; ".join(reasons)
                or f"model '{name}' has no version below its default, {default}, to roll back to{ends}"
            )

    def _pin(self, name: str, version: int, **values: Any) -> None:
        """Makes a version the default, and sets other values in the same write."""
        self._repository.ensure_loaded(name, version)
        before = self._repository.control(name)
        self._write(name, pinned=version, **values)
        self._repository.refresh(name)
        if self._default(name) != version:
            self._write(name, **{key: getattr(before, key) for key in ("pinned", *values)})
            self._repository.refresh(name)
            raise VersionFailedError(f"model '{name}' version {version} can't be made the default")

    def _end_promoted_canary(self, name: str) -> None:
        """Ends a canary whose version has become the default.

        Otherwise its share would return unasked, once another version is the default.
        """
        if self._repository.control(name).canary is None:
            return
        label = self._repository.settings(name).canary_label
        default = self._default(name)
        if default is not None and self._repository.labels(name).get(label) == default:
            self._write(name, canary=None)
            self._repository.refresh(name)

    # Labels.

    def set_label(self, name: str, label: str, version: int, who: str) -> Change:
        """Points a label at a version. Raises VersionFailedError if it can't be loaded, InvalidRequestError."""
        with self._change(who, "set label", name, label=label, to=version) as record:
            check_label(label)
            record["from"] = self._repository.labels(name).get(label)
            self._repository.ensure_loaded(name, version)
            self._on_disk(lambda: self._repository.writer.write_label(name, label, version))
            self._repository.refresh(name)
            if self._repository.serving(name)["labels"].get(label) != version:
                # Its file has gone or changed meanwhile.
                self._on_disk(lambda: self._restore_label(name, label, record["from"]))
                self._repository.refresh(name)
                raise VersionFailedError(f"model '{name}' version {version} can't be loaded, so the label stays")
            return self._finish(name)

    def _restore_label(self, name: str, label: str, version: int | None) -> None:
        if version is None:
            self._repository.writer.remove_label(name, label)
        else:
            self._repository.writer.write_label(name, label, version)

    def remove_label(self, name: str, label: str, who: str) -> Change:
        """Removes a label. Raises UnknownLabelError."""
        with self._change(who, "remove label", name, label=label) as record:
            labels = self._repository.labels(name)
            if label not in labels:
                raise UnknownLabelError(f"model '{name}' has no label '{safe_text(label, 150)}'")
            record["from"] = labels[label]
            self._on_disk(lambda: self._repository.writer.remove_label(name, label))
            self._repository.refresh(name)
            return self._finish(name)

    def set_canary(self, name: str, share: float | None, who: str) -> tuple[float, Change]:
        """Sets the share of callers that get the canary; None for that of the settings. Returns the share in force.

        Raises InvalidRequestError if it isn't from 0 to 1, RefusedChangeError if there is no version for the canary or
        it is the default, VersionFailedError if it can't be loaded.
        """
        with self._change(who, "set canary", name, to=share) as record:
            record["from"] = self._repository.serving(name)["canary"]
            if share is not None and not 0 <= share <= 1:
                raise InvalidRequestError(f"share: got {share:g}, expected a number from 0 to 1")
            self._known(name)
            label = self._repository.settings(name).canary_label
            version = self._repository.labels(name).get(label)
            if share and version is None:
                raise RefusedChangeError(f"model '{name}' has no label '{label}', at whose version the share would go")
            if share and version is not None:
                self._repository.ensure_loaded(name, version)
                if self._repository.serving(name)["default"] == version:
                    raise RefusedChangeError(
                        f"model '{name}' version {version}, which has the label '{label}', is the default, so that all "
                        "callers get it: pin another version first"
                    )
            self._write(name, canary=share)
            self._repository.refresh(name)
            return self._repository.serving(name)["canary"], self._finish(name)

    def set_version_policy(self, name: str, policy: VersionPolicy | None, who: str) -> Change:
        """Sets which versions are kept loaded and served, in place of the model's settings; None for theirs.

        Raises RefusedChangeError if a label points at a version that wouldn't be served, and VersionFailedError if a
        version that the policy names can't be loaded.
        """
        new = policy or VersionPolicy.of(self._repository.file_settings(name))
        with self._change(who, "set version policy", name, to=str(new)) as record:
            record["from"] = str(VersionPolicy.of(self._repository.settings(name)))
            self._known(name)
            for version in new.specific_versions:
                self._repository.describe_one(name, version)
            if self._repository.serving(name)["loaded"]:
                check_labels_served(name, self._repository.labels(name), new)
            before = self._repository.control(name).policy
            self._write_policy(name, policy)
            reasons = [
                f"version {one.version}: {one.reason}"
                for one in self._repository.describe(name)
                if one.version in new.specific_versions and one.state is State.FAILED
            ]
            if reasons:
                self._write_policy(name, before)
                raise VersionFailedError(f"model '{name}': the version policy stays, as {'; '.join(reasons)}")
            return self._finish(name)

    def _write_policy(self, name: str, policy: VersionPolicy | None) -> None:
        self._write(name, policy=None if policy is None else policy.as_json())
        self._repository.refresh(name)

    # Deletion.

    def delete_version(self, name: str, version: int, who: str, *, force: bool = False) -> Change:
        """Deletes a version. Raises RefusedChangeError if a label points at it, or it is the default or pinned.

        With `force`, the latter two are no reason.
        """
        with self._change(who, "delete version", name, version=version, force=force):
            found = self._repository.describe_one(name, version)
            labels = sorted(label for label, number in self._repository.labels(name).items() if number == version)
            if labels:
                raise RefusedChangeError(
                    f"model '{name}' version {version}: label '{labels[0]}' points at it; move or remove it first"
                )
            control = self._repository.control(name)
            if not force and (found.default or control.pinned == version):
                reason = "it is the default" if found.default else "it is pinned"
                raise RefusedChangeError(f"model '{name}' version {version}: {reason}; use force to delete it anyway")
            self._repository.check_deletable(name)
            values: dict[str, Any] = {"highest": self._repository.highest(name)}
            if control.pinned == version:
                values["pinned"] = None
            self._write(name, **values)
            self._on_disk(lambda: self._repository.writer.withdraw(name, version, found.path))
            self._repository.refresh(name)
            return self._finish(name)

    def delete_model(self, name: str, who: str, *, force: bool = False) -> Sequence[str]:
        """Deletes a model. Returns the processes that lag behind.

        Raises RefusedChangeError if it is loaded, or work on it hasn't ended. With `force`, neither is a
        reason; then the results of those runs are withheld.
        """
        with self._change(who, "delete model", name, force=force) as record:
            versions = self._known(name)
            record["from"] = [one.version for one in versions]
            if not force and any(one.answers or one.state is State.LOADING for one in versions):
                raise RefusedChangeError(f"model '{name}': it is loaded; unload it first, or use force")
            if not force and (work := self._open_work(name)):
                listed = ", ".join(work[:MAX_LISTED]) + f" and {len(work) - MAX_LISTED} more" * (len(work) > MAX_LISTED)
                raise RefusedChangeError(
                    f"model '{name}' is being trained by {listed}: cancel them, or use force, after which they publish "
                    "nothing"
                )
            self._repository.check_deletable(name)
            highest = self._repository.highest(name)
            self._on_disk(lambda: self._repository.writer.withdraw_model(name, highest))
            self._repository.refresh(name)
            return self._follow(name)

    # Training.

    def note_run(self, name: str, run: str, version: int, error: ServerError | None) -> None:
        """Audits the version that a run has published (0: none), and has the other processes follow."""
        record = {"who": f"run {run}", "action": "publish", "model": name, "version": version}
        self._note(record, "done" if error is None else _outcome(error))
        for text in self._follow(name):
            logger.warning("version %d of model '%s' isn't in effect in %s", version, name, text)

    # Parts of all changes.

    def _known(self, name: str) -> Sequence[Description]:
        versions = self._repository.describe(name)
        if not versions:
            self._repository.describe_one(name)  # raises, with the closest name
            raise UnknownModelError(f"unknown model '{name}'")
        return versions

    def _default(self, name: str) -> int | None:
        return next((one.version for one in self._known(name) if one.default), None)

    def _finish(self, name: str) -> Change:
        lagging = self._follow(name)
        return Change(self._repository.describe(name), lagging)

    def _write(self, name: str, **values: Any) -> None:
        self._known(name)
        self._on_disk(lambda: self._repository.writer.write_control(name, **values))
        self._repository.set_control(name, read_control(self._repository.folder(name)))

    @staticmethod
    def _on_disk(write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise unwritable(error) from error

    @contextlib.contextmanager
    def _change(self, who: str, action: str, name: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Makes a change within the block, and audits it. Yields the record, to which the block may add."""
        if not self._waiting.acquire(blocking=False):
            raise BusyError(f"{MAX_WAITING} changes of the repository are waiting, which is the limit", RETRY_SECONDS)
        try:
            with self._lock:
                record: dict[str, Any] = {"who": who, "action": action, "model": safe_text(name, 150), **details}
                try:
                    self._audit.check_writable()
                except OSError as error:
                    raise RefusedChangeError(f"the audit log can't be written: {error.strerror}") from error
                try:
                    check_name(name)
                    self._repository.check_changeable(name)
                    yield record
                except BaseException as error:
                    self._note(record, _outcome(error))
                    raise
                self._note(record, "done")
        finally:
            self._waiting.release()

    def _note_refused(self, who: str, action: str, name: str, error: Exception) -> None:
        self._note({"who": who, "action": action, "model": safe_text(name, 150)}, _outcome(error))

    def _note(self, record: dict[str, Any], outcome: str) -> None:
        try:
            self._audit.write(**record, outcome=outcome)
        except OSError as error:
            # The change has been made, so its call doesn't fail.
            logger.error("can't write the audit log: %s", error.strerror, extra={**record, "outcome": outcome})


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


def _outcome(error: BaseException) -> str:
    if isinstance(error, ServerError):
        return f"{error.reason}: {safe_text(str(error))}"
    return f"internal: {type(error).__name__}"
