"""Which runs ListRuns returns, in which order, and how its pages follow one another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TypeAlias

from layerserve.v1 import training_pb2 as pb

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.services.messages import nanoseconds
from layerserve_server.services.run_replies import kind_number
from layerserve_server.training.runs.run import RUN_ID, Run

#: Time of creation in nanoseconds and id: runs are sorted by it, whatever runs are begun or removed meanwhile.
Place: TypeAlias = tuple[int, str]

TOKEN = re.compile(rf"(?P<time>[0-9]{{1,19}})\.(?P<id>{RUN_ID.pattern})")


def selected(request: pb.ListRunsRequest, runs: Iterable[Run]) -> list[Run]:
    """Returns the runs that a request asks for, in its order, but for paging. Raises InvalidRequestError."""
    names = pb.RunState.DESCRIPTOR.values_by_number
    for number in request.states:
        if number not in names or not number:
            raise InvalidRequestError(f"states: got {number}, expected states of a run")
    if request.kind not in pb.RunKind.values():
        raise InvalidRequestError(f"kind: got {request.kind}, expected a kind of runs")
    states = {names[number].name.removeprefix("RUN_STATE_").lower() for number in request.states}
    earliest = nanoseconds(request.created_after, "created_after")
    latest = nanoseconds(request.created_before, "created_before") if request.HasField("created_before") else math.inf
    created = (run for run in runs if earliest <= place(run)[0] < latest)
    found = [run for run in created if _fits(request, run) and (not states or run.state.value in states)]
    return sorted(found, key=place, reverse=not request.oldest_first)


def page(request: pb.ListRunsRequest, runs: list[Run]) -> tuple[list[Run], str]:
    """Returns a request's page of sorted runs, and the token of the next one; empty if there is none.

    Raises InvalidRequestError for a token that no reply had, and for a negative size.
    """
    if request.page_size < 0:
        raise InvalidRequestError(f"page_size: got {request.page_size}, expected 0 or more")
    if request.page_token:
        after = _place(request.page_token)
        runs = [run for run in runs if (place(run) > after if request.oldest_first else place(run) < after)]
    shown = runs[: request.page_size] if request.page_size else runs
    if len(shown) == len(runs):
        return shown, ""
    moment, run_id = place(shown[-1])
    return shown, f"{moment}.{run_id}"


def place(run: Run) -> Place:
    """Returns the place of a run among others."""
    return int(run.created_time * 1e9), run.id


def _place(token: str) -> Place:
    match = TOKEN.fullmatch(token)
    if match is None:
        raise InvalidRequestError(f"page_token: got '{safe_text(token, 80)}', expected one of a reply of ListRuns")
    return int(match["time"]), match["id"]


def _fits(request: pb.ListRunsRequest, run: Run) -> bool:
    if request.model_name and run.request.model != request.model_name:
        return False
    if request.kind and request.kind != kind_number(run.request):
        return False
    if request.caller and run.request.caller != request.caller:
        return False
    metadata = run.metadata
    return all(metadata.get(key) == value for key, value in request.metadata.items())
