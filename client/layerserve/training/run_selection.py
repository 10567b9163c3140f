"""Flow that lists a server's runs, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from layerserve.calls.flow import Flow, call
from layerserve.training.options.kinds import whole, words
from layerserve.training.run_info import RunInfo, Runs, read_run_info
from layerserve.v1 import training_pb2

#: Number of runs in a page.
PAGE = 500
#: Kinds and states as the caller names them.
KINDS = {name.removeprefix("RUN_KIND_").lower(): number for name, number in training_pb2.RunKind.items() if number}
STATES = {name.removeprefix("RUN_STATE_").lower(): number for name, number in training_pb2.RunState.items() if number}


def list_runs(
    model: str | None,
    state: str | Iterable[str] | None,
    kind: str | None,
    metadata: Mapping[str, str] | None,
    caller: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    limit: int | None,
    *,
    oldest_first: bool,
) -> Flow[Runs]:
    """Flow of the runs that fit. Raises InvalidArgument for a state, kind or limit that can't be one."""
    if limit is not None:
        limit = whole(1, 64).encode("limit", limit)
    states = [state] if isinstance(state, str) else list(state or ())
    request = training_pb2.ListRunsRequest(
        model_name=model or "",
        states=[words(STATES).encode("state", one) for one in states],
        kind=words(KINDS).encode("kind", kind) if kind is not None else training_pb2.RUN_KIND_UNSPECIFIED,
        metadata=metadata or {},
        caller=caller or "",
        oldest_first=oldest_first,
    )
    for field, time in ((request.created_after, created_after), (request.created_before, created_before)):
        if time is not None:
            # A time without a zone is one of this machine's.
            field.FromDatetime(time.astimezone())
    found: list[RunInfo] = []
    while True:
        request.page_size = PAGE if limit is None else min(PAGE, limit - len(found))
        reply = yield from call(request, training_pb2.ListRunsResponse)
        found += map(read_run_info, reply.runs)
        request.page_token = reply.next_page_token
        if not request.page_token or (limit is not None and len(found) >= limit):
            return Runs(found[:limit])
