"""Versions that a session publishes: the process writes a file for each, and the server publishes it once."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from layerserve_server.disk import json_object, replace_file
from layerserve_server.errors import ModelGoneError, ServerError, safe_text
from layerserve_server.records import checked
from layerserve_server.repository.repository import Repository
from layerserve_server.training.events import Failed, Finished
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import OF_KIND
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.watchers import Watchers

#: Folder of the models that are to be published, in the run's folder.
PUBLISH = f"{OF_KIND}/publish"
#: The note of what was published last.
NOTE = "published.json"
FILE = re.compile(r"([0-9]{12})\.(keras|h5)")
#: Beginning of the reason of a session that ended because no request came.
IDLE = "the session got no request"
#: Number of outcomes that are kept for those who wait for them.
KEPT = 64


@dataclass(frozen=True, slots=True)
class Published:
    """What was published last: a version, and the number of steps that it has."""

    step: int
    version: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a version with `step` steps: its number, or the error."""

    step: int
    version: int
    error: ServerError | None = None


def read_published(folder: Path) -> Published | None:
    """Returns what the run in a folder has published last; None if nothing."""
    try:
        return checked(Published(**json_object((folder / NOTE).read_text("utf-8"))))
    except (OSError, ValueError, TypeError):
        return None


def pending(folder: Path) -> list[tuple[int, Path]]:
    """Returns the files that are to be published, with the numbers of their steps, in order."""
    try:
        names = os.listdir(folder / PUBLISH)
    except OSError:
        return []
    return sorted((int(match[1]), folder / PUBLISH / name) for name in names if (match := FILE.fullmatch(name)))


def newest(folder: Path) -> int:
    """Returns the number of steps of the newest version that was published, or is to be."""
    published = read_published(folder)
    return max([published.step if published else 0, *(step for step, _ in pending(folder))])


def request(folder: Path, step: int, suffix: str, save: Callable[[Path], None]) -> None:
    """Has the server publish what `save` writes to the path that it gets. In the session's process."""
    (folder / PUBLISH).mkdir(parents=True, exist_ok=True)
    part = folder / PUBLISH / f"part{suffix}"
    save(part)
    os.replace(part, folder / PUBLISH / f"{step:012}{suffix}")


class Publications:
    """The server's side of a session's publications (see `RunPublisher`). Thread-safe."""

    def __init__(self, folder: Path, request: RunRequest) -> None:
        """`folder` is that of the session's run, `request` its request."""
        self._folder = folder
        self._request = request
        #: The last outcomes, and how many there were before them.
        self._outcomes: deque[Outcome] = deque(maxlen=KEPT)
        self._count = 0
        #: Step of the version that is being published, whose file may be gone already; 0 for none.
        self._current = 0
        #: Called after each outcome, in the thread that publishes.
        self.watchers = Watchers()
        self._lock = threading.Lock()

    @property
    def last(self) -> Published | None:
        """What was published last."""
        return read_published(self._folder)

    @property
    def version(self) -> int:
        """The version that was published last; 0 if none."""
        last = self.last
        return last.version if last is not None else 0

    @property
    def count(self) -> int:
        """Number of outcomes so far."""
        with self._lock:
            return self._count

    def publish(self, repository: Repository) -> None:
        """Publishes the files that are to be published, each once.

        A file that can't be published is dropped; the next one has all of its steps.
        """
        for step, path in pending(self._folder):
            self._current = step
            try:
                outcome = Outcome(step, self._publish(repository, path, step))
                self._note(Published(step, outcome.version))
            except ServerError as error:
                outcome = Outcome(step, 0, error)
            with self._lock:
                self._outcomes.append(outcome)
                self._count += 1
            # Last: what was killed before is published again, which finds its version.
            path.unlink(missing_ok=True)
            self._current = 0
            self.watchers.call()

    def _publish(self, repository: Repository, file: Path, step: int) -> int:
        request = self._request
        return repository.publisher.publish_once(
            request.model,
            file,
            run=self._folder.name,
            base_version=request.version,
            label=request.publish_label or "",
            # By which a version that was published before a kill is found again.
            checkpoint=f"step-{step}",
        )

    def last_event(self, result: RunResult, seconds: float) -> Finished | Failed:
        """Returns the event that ends a session whose process has ended it with this result after some seconds."""
        outcomes = self.outcomes(0)
        error = outcomes[-1].error if outcomes else None
        if error is not None and not isinstance(error, ModelGoneError):
            # Nothing is lost: the session can be resumed, and ended again.
            return Failed(safe_text(str(error)), result.epoch, result.step, resumable=True)
        withheld = "" if error is None else safe_text(str(error))
        return Finished(self.version, result.logs, seconds, withheld)

    def outcomes(self, seen: int) -> list[Outcome]:
        """Returns the outcomes after the first `seen` ones, as far as they are kept."""
        with self._lock:
            return (
                list(self._outcomes)[max(0, seen - self._count + len(self._outcomes)) :] if seen < self._count else []
            )

    def is_pending(self, step: int) -> bool:
        """Whether a version with this number of steps is to be published."""
        return self._current == step or any(one == step for one, _ in pending(self._folder))

    def _note(self, published: Published) -> None:
        replace_file(self._folder / NOTE, json.dumps(asdict(published)))
