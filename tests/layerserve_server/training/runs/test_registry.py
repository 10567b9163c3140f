"""Runs of a kind that the server doesn't have, and what kinds of extensions have of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import BusyError, NotTrainableError
from layerserve_server.training import events
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import RunState

ID = "20260101-0000-00000000"
NO_OBSERVER: Any = SimpleNamespace(runs_changed=lambda *_: None, run_ended=lambda *_: None)
TEXT = "this server has no extension for runs of kind 'gone'; install it, and resume the run"


def runs_in(folder: Path, kinds: Iterable[RunKind] = (), slots: int = 0) -> Runs:
    nothing: Any = SimpleNamespace()
    limits = RunLimits(slots, max_queued=1, max_bytes=1, max_kept=0, cancel_grace_seconds=1.0)
    return Runs(folder, nothing, nothing, limits, NO_OBSERVER, ["false"], kinds=kinds)


def files(folder: Path) -> dict[Path, bytes]:
    # But the lock of the owner, which names the server that looked last.
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("last", [events.Queued(0), events.Started(1, 0, 0), events.Paused(1, 3, "")])
def test_a_run_of_a_kind_that_is_gone_is_listed_and_left_as_it_is(tmp_path: Path, last: events.What) -> None:
    folder = tmp_path / ID
    (folder / "base").mkdir(parents=True)
    request = RunRequest("m", 1, (), kind="gone", kind_options={"a": 1}, caller="ann", callers=("bob",))
    request.write(folder)
    for what in (events.Accepted("m", 1, 0), events.Queued(0), last):
        events.append(folder, what)
    before = files(folder)
    runs = runs_in(tmp_path)
    runs.start()
    (run,) = runs.table.list()
    assert (run.state, run.request, run.owned) == (RunState.FAILED, request, False)
    assert isinstance(run.log.last, events.Failed)
    assert (run.log.last.reason, run.resumable) == (TEXT, True)
    for refused in (lambda: runs.steering.resume(ID), lambda: runs.check_ready("gone")):
        with pytest.raises(NotTrainableError, match=TEXT):
            refused()
    runs.table.scan()
    runs.stop()
    assert files(folder) == before
    # A server that has the extension goes on with it.
    kind = RunKind(name="gone", slots=1, off="")
    other = runs_in(tmp_path, [kind])
    other.table.scan_first()
    (found,) = other.table.list()
    assert (found.kind, found.log.ended) == (kind, False)
    found.disown()


def admit(runs: Runs, kind: RunKind, times: int) -> Callable[[], None]:
    """Returns what begins so many runs at once."""

    def nested(count: int) -> None:
        if count:
            with runs._queue.admitted(kind):
                nested(count - 1)

    return lambda: nested(times)


def test_interactive_runs_have_room_of_their_own(tmp_path: Path) -> None:
    talk = RunKind(name="talk", slots=2, off="", plural="talks", interactive=True)
    other = RunKind(name="other", slots=1, off="")
    runs = runs_in(tmp_path, [talk, other], slots=1)
    with runs._queue.admitted(runs._kinds["training"]), runs._queue.admitted(other):
        with pytest.raises(BusyError, match="2 training runs are queued or running, the maximum"):
            admit(runs, runs._kinds["evaluation"], 1)()
        admit(runs, talk, 2)()
        with pytest.raises(BusyError, match="2 talks are open, the maximum"):
            admit(runs, talk, 3)()
    admit(runs, runs._kinds["evaluation"], 2)()
