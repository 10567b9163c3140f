"""Runs that requests name, as far as the caller may have to do with them (see `access.ownership`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to, check_access
from layerserve_server.repository.repository import Repository
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run


def find_run(runs: Runs, caller: Caller, needed: Access, run_id: str) -> Run:
    """Returns a run. Raises as `RunTable.get`, and ForbiddenError if the caller may do less with it than is needed."""
    run = runs.table.get(run_id, seen_by(caller))
    check_access(caller, run.request, needed, f"training run '{run.id}'")
    return run


def seen_by(caller: Caller) -> Callable[[RunRequest], bool]:
    """Returns whether a run of a request exists for a caller."""
    return lambda request: access_to(caller, request) > Access.NONE


def owned(request: RunRequest, caller: Caller, repository: Repository) -> RunRequest:
    """Returns a request with its owner, and with the callers that its model is open to now."""
    restriction = repository.catalogue.restrictions.get(request.model)
    callers = None if restriction is None else restriction.callers or ()
    return replace(request, caller=caller.owner, callers=callers)
