"""Sessions of online training as a kind of run."""

from __future__ import annotations

from layerserve_server.extensions.online.publications import Publications
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.runs.run import Run

#: Name of the kind.
ONLINE = "online"
#: Module of a session's process.
PROGRAM = "layerserve_server.extensions.online.session_main"


def online_kind(sessions: int) -> RunKind:
    """Returns the kind for a server that has this number of sessions open at most."""
    return RunKind(
        name=ONLINE,
        slots=sessions,
        off="online training is off on this server: max_online_sessions is 0",
        plural="sessions of online training",
        interactive=True,
        program=PROGRAM,
        publisher=Publications,
    )


def publications_of(run: Run) -> Publications:
    """Returns what publishes versions of a session."""
    assert isinstance(run.publisher, Publications), "of a session"
    return run.publisher
