"""Handler of layerserve.v1.ScoringService: begins runs that score a dataset."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain

from layerserve.v1 import scoring_pb2 as pb

from layerserve_server.access.ownership import sees_dataset
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import InvalidRequestError, ServerError, safe_text
from layerserve_server.extensions.scoring.kind import SCORING, ScoringOptions
from layerserve_server.extensions.scoring.scoring_job import CHECK
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_arrays import use_datasets
from layerserve_server.services.idempotency import keys_of_runs
from layerserve_server.services.messages import chosen_by, lease, parse
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_access import owned
from layerserve_server.services.run_replies import run_message
from layerserve_server.services.run_requests import RunDefaults
from layerserve_server.training.checks.request_checks import check_key
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run
from layerserve_server.transport.call import Call, Routes

SERVICE = "/layerserve.v1.ScoringService/"
#: Maximum number of columns and outputs, and maximum length of their names, in characters.
MAX_NAMES, MAX_NAME = 10_000, 500
#: Maximum length of the name of a result, in bytes: names of its parts are longer, and a disk takes 255.
MAX_RESULT = 100


class ScoringService:
    """Handlers of the scoring service."""

    def __init__(
        self,
        repository: Repository,
        runs: Runs,
        datasets: DatasetStore,
        work: OpenWork,
        jobs: Jobs,
        defaults: RunDefaults,
    ) -> None:
        self._repository = repository
        self._runs = runs
        self._datasets = datasets
        self._work = work
        self._jobs = jobs
        self._defaults = defaults
        self._keys = keys_of_runs(runs)

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(unary={SERVICE + "Score": self.score})

    def score(self, call: Call) -> None:
        """Handles Score.

        Raises as `messages.lease`, `DatasetStore.get`, `Quota.run`, `Runs.begin`, CHECK and `IdempotencyKeys.begin` do.
        """
        request = parse(pb.ScoreRequest, call.request)
        # Before the key is looked up: the run may be of a model that the caller may not use any more.
        chosen_by(call.caller, "predict", request.model)
        check_key(request.idempotency_key)
        begin = partial(self._work.begin, call.caller, lambda: self._begin(call, request))
        run, _ = self._keys.begin(call.caller, request.idempotency_key, SCORING, request, begin)
        call.answer(pb.ScoreResponse(run=run_message(run)).SerializeToString())

    def _begin(self, call: Call, message: pb.ScoreRequest) -> Run:
        options = _options(message)
        with lease(self._repository, call.caller, "predict", message.model) as base:
            call.set_metric_labels(base.name, base.version)
            dataset = self._datasets.get(message.dataset, partial(sees_dataset, call.caller))
            options = replace(options, rows=dataset.rows, settings=self._settings(base.name))
            request = RunRequest(
                model=base.name,
                version=base.version,
                # The dataset as a whole, which is read where it lies.
                data=(DataArray(Role.X, "", "", (dataset.rows,), self._datasets.file(dataset), mapped=True),),
                kind=SCORING,
                kind_options=asdict(options),
                threads=self._defaults.threads,
                nice=self._defaults.nice,
                publish=False,
                idempotency_key=message.idempotency_key or None,
            )
            run = self._runs.begin(owned(request, call.caller, self._repository), base)
            try:
                use_datasets(request, self._datasets)
                limits = self._jobs.limits(base.parameter_count)
                self._jobs.run(CHECK, {"folder": str(run.folder.absolute())}, limits, lambda: call.answered)
            except BaseException as error:
                # The caller never sees it.
                self._runs.abandon(run, str(error))
                with contextlib.suppress(ServerError):
                    self._runs.delete(run.id)
                raise
        self._runs.enqueue(run)
        return run

    def _settings(self, model: str) -> str:
        """Returns the content of a model's settings file; empty if there is none."""
        catalogue = self._repository.catalogue
        with catalogue.lock:
            record = catalogue.models.get(model)
            content = record.settings_content if record is not None else None
        return "" if content is None else content.decode("utf-8")


def _options(message: pb.ScoreRequest) -> ScoringOptions:
    """Returns the options in a request. Raises InvalidRequestError."""
    to = message.to
    if not 0 < len(to.encode()) <= MAX_RESULT or to.startswith(".") or "/" in to or not to.isprintable():
        raise InvalidRequestError(
            f"to: got '{safe_text(to, MAX_RESULT)}', expected the name of a file or folder, of 1 to {MAX_RESULT} "
            "bytes in UTF-8, without '/' and without '.' at its beginning"
        )
    if message.batch_size < 0:
        raise InvalidRequestError(f"batch_size: got {message.batch_size}, expected rows, or 0 for the default")
    inputs = {one.input: list(one.columns) for one in message.input_columns}
    if len(inputs) != len(message.input_columns):
        raise InvalidRequestError("input_columns: got an input twice, expected each once")
    _check_names("outputs", message.outputs)
    _check_names("columns", message.columns)
    _check_names("input_columns", [*inputs, *chain.from_iterable(inputs.values())])
    return ScoringOptions(
        to,
        outputs=list(message.outputs),
        columns=list(message.columns),
        input_columns=inputs,
        batch_size=message.batch_size,
        skip_bad_rows=message.skip_bad_rows,
    )


def _check_names(field: str, names: Sequence[str]) -> None:
    if len(names) > MAX_NAMES:
        raise InvalidRequestError(f"{field}: got {len(names)} names, expected at most {MAX_NAMES}")
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise InvalidRequestError(f"{field}: got a name of {longest} characters, expected at most {MAX_NAME}")
