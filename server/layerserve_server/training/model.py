"""Conversion of a run's request to arguments of `compile`, `fit` and `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from layergraph.errors import (
    ConfigError,
    NotCompiledError,
)
from layerserve.training.options.contract import View

from layerserve_server.inference.runner import Array
from layerserve_server.training.data_split import rows_of
from layerserve_server.training.finite import check_finite
from layerserve_server.training.precision import policy_of
from layerserve_server.training.request import DataArray, Role, RunRequest

if TYPE_CHECKING:
    from layergraph.models.model import Model
    from layergraph.saving.formats import Format


def load_trainable(path: Path) -> Model:
    """Loads a model file with layergraph. Imported here so that flags and `--help` don't have to import torch."""
    import layergraph

    return layergraph.load_model(path, keep_lora=True)


#: Number of rows of placeholders.
PLACEHOLDER_ROWS = 2
#: Each text of these rows. Layers behind one that splits text into words may need several of them.
PLACEHOLDER_TEXT = b"word " * 32


def prepare_model(model: Model, request: RunRequest) -> None:
    """Sets the precision, freezes layers, enables LoRA and compiles a model according to a request.

    Raises ConfigError if a setting is invalid or the result's format can't represent the model, and NotCompiledError as
    `compile_model` does.
    """
    if policy := policy_of(request.precision, request.device):
        model.compute_in(policy)
    if request.freeze:
        from layergraph.training import freezing

        frozen = [pattern for pattern in request.freeze if not pattern.startswith("!")]
        trained = [pattern.removeprefix("!") for pattern in request.freeze if pattern.startswith("!")]
        # Before compiling: the optimizer state in the file belongs to the weights that were trainable before.
        freezing.freeze(model, frozen)
        freezing.unfreeze(model, trained)
    if request.lora:
        from layergraph.training import adapting

        patterns, alpha = request.lora.get("layers", ("*",)), request.lora.get("alpha")
        adapting.adapt(model, patterns, request.lora["rank"], alpha, request.seed)
    compile_model(model, request.compile, updates=request.trains)
    if request.trains:
        result_format(model, request)


def result_format(model: Model, request: RunRequest) -> Format:
    """Returns the format of the run's result. Raises ConfigError if it can't represent the compiled model."""
    with as_published(model, request):
        return model.saved_format(request.format or "")


def save_result(model: Model, path: Path, request: RunRequest, format: Format, base: Path) -> None:
    """Writes the file that a run publishes. `base` is that of the model before training, or its folder.

    Raises NotTrainableError if a weight isn't finite, which it was there.
    """
    with as_published(model, request):
        check_finite(model, base)
        model.save(path, generation=format.generation)


def as_published(model: Model, request: RunRequest) -> AbstractContextManager[None]:
    """Sets the weights that a run publishes within the block: merged kernels, unless LoRA is to be kept."""
    if not request.lora or request.lora.get("keep"):
        return nullcontext()
    from layergraph.saving.lora import merged_weights

    return merged_weights(model)


def compile_model(model: Model, settings: Mapping[str, Any], *, updates: bool = True) -> None:
    """Compiles a model with `settings`; those not given, and the optimizer's state, are kept from the model file.

    Loss weights and metrics of the file belong to its loss, so a new loss starts without them. An optimizer is required
    only if the run `updates` weights. Raises NotCompiledError if there is no loss or optimizer, and ConfigError if a
    setting is invalid.
    """
    if settings.keys().isdisjoint(("optimizer", "loss")) and model.compile_problem:
        raise ConfigError(f"the compile settings of the model file can't be used, give a loss: {model.compile_problem}")
    if not settings:
        if not model.compiled:
            raise NotCompiledError(
                "neither the request nor the model file has an optimizer and a loss; set both, such as 'adam' and 'mse'"
            )
        return
    filed = model.compile_config or {}
    arguments = dict(settings)
    if "optimizer" not in settings:
        if "loss" in settings and model.compile_problem:
            # The optimizer, with its state, may be usable without the loss and the metrics that only their author has.
            model.compile_config = {"optimizer": filed.get("optimizer")}
        arguments["optimizer"] = model.optimizer
    if arguments["optimizer"] is None and not updates:
        arguments["optimizer"] = "sgd"
    if "loss" not in settings:
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if filed.get(name) is not None:
                arguments.setdefault(name, filed[name])
    for name in ("optimizer", "loss"):
        if arguments.get(name) is None:
            raise NotCompiledError(
                f"neither the request nor the model file has {'an' if name == 'optimizer' else 'a'} {name}; set one"
            )
    model.compile(**arguments)


def fit_arguments(request: RunRequest, arrays: Sequence[Array]) -> dict[str, Any]:
    """Returns the arguments of `fit` for a request. `arrays[i]` has the elements of `request.data[i]`."""
    groups = _groups(request, arrays)
    arguments = {
        "x": groups[Role.X],
        "y": groups[Role.Y],
        "sample_weight": _weights(groups[Role.SAMPLE_WEIGHT]),
        "batch_size": request.batch_size,
        "epochs": request.epochs,
        "verbose": 0,
        "shuffle": request.shuffle,
        "validation_split": request.validation_split,
        "class_weight": dict(request.class_weight) if request.class_weight else None,
        "seed": request.seed,
        "on_nan": request.on_nan,
    }
    if request.steps_per_epoch:
        arguments["steps_per_epoch"] = request.steps_per_epoch
    arguments |= _viewed(request, arrays)
    if groups[Role.VALIDATION_X]:
        data: tuple[Any, ...] = (groups[Role.VALIDATION_X], groups[Role.VALIDATION_Y])
        weights = _weights(groups[Role.VALIDATION_SAMPLE_WEIGHT])
        arguments["validation_data"] = data if weights is None else (*data, weights)
    return arguments


def configured_callbacks(request: RunRequest, folder: Path) -> list[Any]:
    """Returns the callbacks of a request; they write files below `folder`. Raises ConfigError if one is invalid."""
    if not request.callbacks:
        return []
    from layergraph.training.callbacks.table import callback

    return [callback(given, folder) for given in request.callbacks]


def evaluate_arguments(request: RunRequest, arrays: Sequence[Array]) -> dict[str, Any]:
    """Returns the arguments of `evaluate` for the data of an evaluation, or the validation data of a training run."""
    groups = _groups(request, arrays)
    if request.validation_split:
        groups = {role: {name: _last(array, request) for name, array in held.items()} for role, held in groups.items()}
    rows = None
    if groups[Role.VALIDATION_X]:
        x, y, weight = Role.VALIDATION_X, Role.VALIDATION_Y, Role.VALIDATION_SAMPLE_WEIGHT
    else:
        x, y, weight = Role.X, Role.Y, Role.SAMPLE_WEIGHT
        if request.view != View():
            rows = rows_of(request.view, len(arrays[0]), request.view.validate_on or request.view.split)
            if rows is not None and any(info.file is not None and info.file.is_parquet for info in request.data):
                # In the order of the data, which is that of the results.
                rows.sort()
    return {
        **({} if rows is None else {"rows": rows}),
        "x": groups[x],
        "y": groups[y],
        "sample_weight": _weights(groups[weight]),
        "batch_size": request.batch_size,
        "verbose": 0,
        "return_dict": True,
    }


def _viewed(request: RunRequest, arrays: Sequence[Array]) -> dict[str, Any]:
    """Returns the arguments of `fit` for the rows of a request's view."""
    view = request.view
    if view == View():
        return {}
    found = {"rows": rows_of(view, len(arrays[0]), view.split)}
    return found | ({"validation_rows": rows_of(view, len(arrays[0]), view.validate_on)} if view.validate_on else {})


def monitored(request: RunRequest) -> str:
    """Returns the name of the log by which the best epoch is selected."""
    return request.monitor or ("val_loss" if request.validates else "loss")


def larger_is_better(model: Model, log: str, mode: str | None) -> bool:
    """Whether larger values of a log are better. Raises ConfigError if neither the mode nor the log determines it."""
    direction = {"min": "down", "max": "up"}.get(mode or "") or model.log_direction(log.removeprefix("val_"))
    if direction is None:
        raise ConfigError(
            f"'{log}' can be better when larger or smaller; name it as monitor='{log}:max' or '{log}:min'"
        )
    return direction == "up"


def placeholders(request: RunRequest) -> list[Array]:
    """Returns a few rows of zeros or text for each array of a run."""
    return [np.full(_few_rows(info), PLACEHOLDER_TEXT if info.is_text else 0, info.held_dtype) for info in request.data]


def _groups(request: RunRequest, arrays: Sequence[Array]) -> dict[Role, dict[str, Array]]:
    groups: dict[Role, dict[str, Array]] = {role: {} for role in Role}
    for info, array in zip(request.data, arrays, strict=True):
        groups[info.role][info.name] = array
    return groups


def _last(array: Array, request: RunRequest) -> Array:
    """Returns the validation rows: Keras trains on the first int(rows * (1 - split))."""
    return array[int(len(array) * (1 - request.validation_split)) :]


def _weights(by_output: dict[str, Array]) -> Any:
    """Returns sample weights as an argument of `fit`: one array for all outputs, a dict by output, or None."""
    if not by_output:
        return None
    return by_output.get("", by_output)


def _few_rows(info: DataArray) -> tuple[int, ...]:
    return (min(PLACEHOLDER_ROWS, info.rows), *info.shape[1:])
