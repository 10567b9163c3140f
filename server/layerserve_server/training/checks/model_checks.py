"""Tries a training request on a copy of its model before the upload, in a child process with limits.

Sizes, patterns and texts of a request are never expanded or allocated in the serving process. If the child fails or
exceeds a limit, the client receives a typed error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training import model as models
from layerserve_server.training.estimates.settings_problems import settings_problems
from layerserve_server.training.request import RunRequest


def try_request(jobs: Jobs, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never) -> None:
    """Tries a request on a model file. Raises the ServerError that the run would raise, and as `Jobs.run` does.

    `parameters` is the number of the model's parameters. Raises VersionFailedError if the file can't be read.
    """
    _run(jobs, table.CHECK_TRAINING, path, request, parameters, gone, every=False, complete=True)


def problems(
    jobs: Jobs,
    path: Path,
    request: RunRequest,
    parameters: int,
    complete: bool,
    gone: Callable[[], bool] = never,
) -> Sequence[str]:
    """Tries a request, and returns the texts of all errors that can be found, instead of raising the first one.

    Of a request that isn't `complete` only the settings are tried: its data has problems of its own.
    """
    reply = _run(jobs, table.CHECK_TRAINING, path, request, parameters, gone, every=True, complete=complete)
    found: list[str] = reply["problems"]
    return found


def larger_is_better(
    jobs: Jobs, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never
) -> bool:
    """Whether larger values of the log that a request monitors are better. Raises as `try_request` does."""
    return bool(_run(jobs, table.LOG_DIRECTION, path, request, parameters, gone)["larger"])


def _run(
    jobs: Jobs,
    job: table.Job,
    path: Path,
    request: RunRequest,
    parameters: int,
    gone: Callable[[], bool],
    **more: bool,
) -> dict[str, Any]:
    arguments = {"path": str(path), "request": request.to_json(), **more}
    return jobs.run(job, arguments, jobs.limits(parameters), gone)


# In the child process.


def check_training(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that tries a request. Replies with all problems if it is asked for `every` one, else raises the first."""
    path, request = _prepared(arguments)
    if arguments["every"]:
        found = settings_problems(models.load_trainable, path, request, complete=arguments["complete"])
        return {"problems": found}
    models.dry_run(models.load_trainable, path, request)
    return {}


def log_direction(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that finds the direction of a log."""
    path, request = _prepared(arguments)
    model = models.load_trainable(path)
    models.prepare_model(model, request)
    return {"larger": models.larger_is_better(model, models.monitored(request), request.monitor_mode)}


def _prepared(arguments: Mapping[str, Any]) -> tuple[Path, RunRequest]:
    import torch

    from layerserve_server.inference.runner import load_plugins

    torch.set_num_threads(1)
    load_plugins()
    return Path(arguments["path"]), RunRequest.from_json(arguments["request"])
