"""All checks of a training request before a run, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from layerserve_server.datasets.description import described_arrays
from layerserve_server.errors import InvalidRequestError
from layerserve_server.jobs.channel import never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.training import budget
from layerserve_server.training.base_version import BaseVersion
from layerserve_server.training.checks import model_checks, request_checks
from layerserve_server.training.checks.problems import RAISING, NotesContext
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_limits import RunLimits


class RunChecks:
    """The checks of requests of one server. Thread-safe."""

    def __init__(self, jobs: Jobs, repository: Repository, limits: RunLimits, folder: Path) -> None:
        """`folder` is that of all runs."""
        self._jobs = jobs
        self._repository = repository
        self._limits = limits
        self._folder = folder

    def __call__(
        self,
        request: RunRequest,
        base: BaseVersion,
        gone: Callable[[], bool] = never,
        start: Start | None = None,
        notes: NotesContext = RAISING,
    ) -> RunRequest | None:
        """Returns the request, completed. With `start` the run begins with that checkpoint, and its run's files.

        Raises as `Runs.begin` does. `notes` may collect all problems instead: returns None if the data has one.
        """
        filled = None
        if request.from_checkpoint and start is None:
            with notes:
                raise InvalidRequestError("from_checkpoint: only Train and Evaluate can go on from a checkpoint")
        with notes:
            request_checks.check_workers(request, self._limits.max_workers)
        with notes:
            filled = request_checks.checked(
                request,
                base.model.input_specs,
                base.model.output_specs,
                self._limits.max_bytes,
                partial(described_arrays, self._jobs, gone=gone),
                notes,
            )
        if filled is not None:
            with notes:
                size = base.found.size if start is None else start.bytes
                budget.check_room(filled, self._folder, base.parameter_count, size)
        if request.publish:
            with notes:
                self._repository.publisher.check_publishable(request.model, request.version)
        if request.expected_base_version and request.on_conflict == "refuse":
            with notes:
                self._repository.publisher.check_newest(request.model, request.expected_base_version)
        with notes:
            path = base.found.path if start is None else start.model
            # The child refuses a request with invalid options, as it is.
            tried = filled if notes is RAISING else request_checks.with_valid_options(filled or request)
            assert tried is not None, "problems are raised"
            complete = filled is not None
            model_checks.check(self._jobs, path, tried, base.parameter_count, gone, notes, complete=complete)
        return filled
