"""All problems of a request's settings that can be found, where a dry run stops at the first one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from layergraph.errors import LayerGraphError

from layerserve_server.errors import safe_text
from layerserve_server.training.checks.problems import REFUSALS, Notes
from layerserve_server.training.model import (
    LoadTrainable,
    TrainableModel,
    configured_callbacks,
    dry_run,
)
from layerserve_server.training.request import RunRequest

if TYPE_CHECKING:
    import layergraph

T = TypeVar("T")

#: What stands in for a setting with a problem, so that the others can be tried.
STAND_INS: Mapping[str, Any] = {"optimizer": "sgd", "loss": None}


def settings_problems(load: LoadTrainable, path: Path, request: RunRequest, *, complete: bool) -> list[str]:
    """Returns the problems of a request in a model, each in the words of the error that `dry_run` raises for it alone.

    The first one is what `dry_run` raises. If the request isn't `complete`, its data has problems of its own, and only
    what doesn't need data is tried.
    """
    notes = Notes()
    if complete:
        with notes:
            dry_run(load, path, request)
            return []
    sound = _sound(load(path), request, notes)
    if complete and sound is not None and sound != request:
        with notes:
            dry_run(load, path, sound)
    return notes.texts


def _sound(model: TrainableModel, request: RunRequest, notes: Notes) -> RunRequest | None:
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


def _freeze(model: TrainableModel, pattern: str) -> None:
    from layergraph.training import freezing

    freezing.freeze(cast("layergraph.Model", model), (pattern.removeprefix("!"),))


def _alone(request: RunRequest, name: str) -> dict[str, Any]:
    """Returns the arguments of `compile` with one of the settings, and what it is checked against."""
    arguments = {**STAND_INS, name: request.compile[name]}
    if name == "loss_weights":
        arguments["loss"] = request.compile.get("loss")
    return arguments


def _make_callback(request: RunRequest, given: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        configured_callbacks(replace(request, callbacks=(given,)), Path(folder))


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"callbacks: a file can't be written: {error.strerror}"
    return str(error)
