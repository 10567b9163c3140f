"""A kind of run: what its runs have in common on the server. Training and evaluation are two; extensions add others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from layerserve_server.repository.repository import Repository
from layerserve_server.training.events import Failed, Finished
from layerserve_server.training.request import EVALUATION, TRAINING, RunRequest
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.run_limits import RunLimits


class RunPublisher(Protocol):
    """Publishes versions of a run while it goes on, rather than its result at the end."""

    @property
    def version(self) -> int:
        """The version that was published last; 0 if none."""

    def publish(self, repository: Repository) -> None:
        """Publishes what the run's process has written to be published. Called in the run's thread, again and again."""

    def last_event(self, result: RunResult, seconds: float) -> Finished | Failed:
        """Returns the event that ends the run, whose process has ended with this result after some seconds."""


#: Makes the publisher of the run in a folder, with this request.
MakePublisher: TypeAlias = Callable[[Path, RunRequest], RunPublisher]


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """A kind of run."""

    #: As in requests on disk. In training.proto it has this name in upper case, if it is there.
    name: str
    #: Maximum number of its runs that are executed at once, each in a thread. 0: none may begin.
    slots: int
    #: Why none may begin if there are no slots.
    off: str
    #: What its runs are called in errors.
    plural: str = "training runs"
    #: Whether a client is connected to a run's process. Then the process is on this machine. The run doesn't wait for
    #: a slot, and only the client resumes it after its process was killed or the disk was full.
    interactive: bool = False
    #: Module of a run's process: its `execute` has the arguments and results of `training.process.work.execute`, and
    #: replaces that one. It isn't taken to compute all the time, so tuning doesn't wait for its end.
    program: str = ""
    #: Whether `Runs.begin` checks requests as those of training. Otherwise the extension does, before `Runs.enqueue`.
    checked: bool = True
    #: Whether its runs can be paused: they keep what they have done.
    pauses: bool = True
    #: Whether its runs can end early with what they have done as the result.
    ends_early: bool = True
    #: Whether its files have rows of its datasets: they are as private as datasets are.
    files_have_rows: bool = False
    #: None if the result is published at the end, if at all.
    publisher: MakePublisher | None = None


class RunKinds(dict[str, RunKind]):
    """The kinds of a server by name. One that it doesn't have is one whose runs are off."""

    def __init__(self, kinds: Iterable[RunKind]) -> None:
        super().__init__((kind.name, kind) for kind in kinds)

    def __missing__(self, name: str) -> RunKind:
        return RunKind(
            name=name,
            slots=0,
            off=f"this server has no extension for runs of kind '{name}'; install it, and resume the run",
            files_have_rows=True,
        )


def core_kinds(limits: RunLimits) -> tuple[RunKind, ...]:
    """Returns the kinds of the core."""
    off = "training is off on this server: it has no training slots"
    return (
        RunKind(name=TRAINING, slots=limits.slots, off=off),
        # A slot of their own, so that they don't wait for hours of training.
        RunKind(name=EVALUATION, slots=min(1, limits.slots), off=off, pauses=False, ends_early=False),
    )
