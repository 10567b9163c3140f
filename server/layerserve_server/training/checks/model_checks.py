"""Checks of a training request that need its model: one step on a few rows, in a child process with limits.

Sizes, patterns and texts of a request are never expanded or allocated in the serving process. If the child fails or
exceeds a limit, the client receives a typed error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from layergraph.errors import (
    ConfigError,
    DataError,
    ElementError,
    GraphError,
    LayerGraphError,
    NonFiniteLossError,
    NotCompiledError,
    ShapeError,
    unknown_name,
)
from layerserve.training.options.contract import View

from layerserve_server import errors
from layerserve_server.errors import safe_text
from layerserve_server.inference.runner import Array, load_plugins
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training import model as models
from layerserve_server.training.checks.problems import RAISING, REFUSALS, Notes, NotesContext
from layerserve_server.training.model import PLACEHOLDER_ROWS
from layerserve_server.training.request import EVALUATION, DataArray, RunRequest

if TYPE_CHECKING:
    from layergraph.models.model import Model

T = TypeVar("T")

#: What stands in for a setting with a problem, so that the others can be tried.
STAND_INS: Mapping[str, Any] = {"optimizer": "sgd", "loss": None}


def check(
    jobs: Jobs,
    path: Path,
    request: RunRequest,
    parameters: int,
    gone: Callable[[], bool] = never,
    notes: NotesContext = RAISING,
    *,
    complete: bool = True,
) -> None:
    """Makes the checks on a model file, in a child process. Raises the ServerError that the run would raise.

    `parameters` is the number of the model's parameters. `notes` may collect all problems instead; of a request that
    isn't `complete` only the settings are tried, since its data has problems of its own. Raises as `Jobs.run` does,
    which includes VersionFailedError if the file can't be read.
    """
    every = isinstance(notes, Notes)
    reply = _run(jobs, table.CHECK_TRAINING, path, request, parameters, gone, every=every, complete=complete)
    if isinstance(notes, Notes):
        notes.add(reply["problems"])


def larger_is_better(
    jobs: Jobs, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never
) -> bool:
    """Whether larger values of the log that a request monitors are better. Raises as `check` does."""
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
    notes = Notes()
    check_here(path, request, notes if arguments["every"] else RAISING, complete=arguments["complete"])
    return {"problems": notes.texts}


def log_direction(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that finds the direction of a log."""
    path, request = _prepared(arguments)
    model = models.load_trainable(path)
    models.prepare_model(model, request)
    return {"larger": models.larger_is_better(model, models.monitored(request), request.monitor_mode)}


def _prepared(arguments: Mapping[str, Any]) -> tuple[Path, RunRequest]:
    import torch

    torch.set_num_threads(1)
    load_plugins()
    return Path(arguments["path"]), RunRequest.from_json(arguments["request"])


def check_here(path: Path, request: RunRequest, notes: NotesContext = RAISING, *, complete: bool = True) -> None:
    """Makes the checks in this process. Collected problems have the words of the error that each raises alone.

    The first one is what is raised if problems aren't collected.
    """
    if complete:
        known = len(notes.texts) if isinstance(notes, Notes) else 0
        with notes:
            _train(path, request)
        if not isinstance(notes, Notes) or len(notes.texts) == known:
            return
        notes.texts[known:] = []
    assert isinstance(notes, Notes), "an incomplete request is raised"
    sound = _sound(models.load_trainable(path), request, notes)
    if complete and sound is not None and sound != request:
        with notes:
            _train(path, sound)


def _train(path: Path, request: RunRequest) -> None:
    """Trains or evaluates a fresh copy of the model on a few rows of zeros or text, to find errors before the upload.

    Thereby it refuses exactly what `fit` and `evaluate` do. Raises InvalidRequestError for invalid settings,
    InvalidTensorError for shapes of targets or weights that don't match, and NotCompiledError if there is no loss or
    optimizer.
    """
    model = models.load_trainable(path)
    few = models.placeholders(request)
    try:
        models.prepare_model(model, request)
        if request.workers > 1:
            from layergraph.training.shareable import check_shareable

            check_shareable(model)
        if request.kind == EVALUATION:
            arguments = models.evaluate_arguments(replace(request, view=View()), few)
            model.evaluate(**arguments, row_losses=(lambda losses: None) if request.sample_losses else None)
        elif request.has_data:
            _train_few(model, request, few)
    except (NonFiniteLossError, ElementError):
        pass  # The elements stand only for the shapes and dtypes of the data.
    except NotCompiledError as error:
        raise errors.NotCompiledError(str(error)) from error
    except ShapeError as error:
        raise errors.InvalidTensorError(str(_of_all_rows(error, request.data))) from error
    except DataError as error:
        raise errors.InvalidTensorError(str(error)) from error
    except (ConfigError, GraphError) as error:
        raise errors.InvalidRequestError(str(error)) from error
    except OSError as error:
        raise errors.InvalidRequestError(f"callbacks: a file can't be written: {error.strerror}") from error


def _train_few(model: Model, request: RunRequest, few: Sequence[Array]) -> None:
    arguments = models.fit_arguments(replace(request, view=View()), few)
    if request.view.validate_on:
        arguments["validation_rows"] = np.arange(len(few[0]))
    arguments |= {"epochs": 1, "batch_size": PLACEHOLDER_ROWS, "on_nan": "continue"}
    if request.validation_split:
        arguments["validation_split"] = 0.5
    with tempfile.TemporaryDirectory() as folder:
        history = model.fit(**arguments, callbacks=models.configured_callbacks(request, Path(folder)))
    ranks = request.publish == "best" or request.keep_best_checkpoints
    deciding = {"monitor": models.monitored(request)} if ranks else {}
    if request.publish_if_improved:
        deciding["publish_if_improved"] = request.publish_if_improved
    for name, log in deciding.items():
        if log not in history.history:
            raise ConfigError(f"{name}: {unknown_name('log', log, history.history)}")
        models.larger_is_better(model, log, request.monitor_mode)


def _of_all_rows(error: ShapeError, data: Sequence[DataArray]) -> ShapeError:
    """Returns an error with the shape of a whole array in place of that of its few rows."""
    for info in data:
        if error.got[1:] == info.shape[1:] and error.got[:1] <= (PLACEHOLDER_ROWS,):
            return ShapeError(error.what, info.shape, error.expected)
    return error


def _sound(model: Model, request: RunRequest, notes: Notes) -> RunRequest | None:
    """Tries the settings one by one. Returns the request with the sound ones; None if it can't be tried with them."""

    freeze = _passing(request.freeze, lambda pattern: _freeze(model, pattern), notes)
    names = _passing(request.compile, lambda name: model.compile(**_alone(request, name)), notes)
    callbacks = _passing(request.callbacks or (), lambda given: _make_callback(request, given), notes)
    formats = _passing([request.format], lambda name: model.saved_format(name or ""), notes)
    if "loss" in request.compile and "loss" not in names:
        # Without it, what is wrong with the targets isn't known.
        return None
    kept = [name for name in request.compile if name in names or name == "optimizer"]
    sound = replace(
        request,
        freeze=freeze,
        compile={name: request.compile[name] if name in names else STAND_INS[name] for name in kept},
        callbacks=callbacks,
        format=formats[0] if formats else None,
    )
    # Logs of the metrics that were left out aren't unknown.
    return sound if len(names) == len(request.compile) else replace(sound, publish_if_improved=None, publish=False)


def _passing(given: Iterable[T], check: Callable[[T], object], notes: Notes) -> tuple[T, ...]:
    """Returns those of some settings that pass a check, and notes the problems of the others."""
    passed = []
    for one in given:
        try:
            check(one)
        except (LayerGraphError, OSError, *REFUSALS) as error:
            notes.add([safe_text(_text(error))])
        else:
            passed.append(one)
    return tuple(passed)


def _freeze(model: Model, pattern: str) -> None:
    from layergraph.training import freezing

    freezing.freeze(model, (pattern.removeprefix("!"),))


def _alone(request: RunRequest, name: str) -> dict[str, Any]:
    """Returns the arguments of `compile` with one of the settings, and what it is checked against."""
    arguments = {**STAND_INS, name: request.compile[name]}
    if name == "loss_weights":
        arguments["loss"] = request.compile.get("loss")
    return arguments


def _make_callback(request: RunRequest, given: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models.configured_callbacks(replace(request, callbacks=(given,)), Path(folder))


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"callbacks: a file can't be written: {error.strerror}"
    return str(error)
