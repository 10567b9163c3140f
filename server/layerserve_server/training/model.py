"""What training needs of a model, and how a run's request is told to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
from layergraph.errors import ConfigError, DataError, GraphError, NonFiniteLossError, NotCompiledError, unknown_name

from layerserve_server import errors
from layerserve_server.inference.runner import Array
from layerserve_server.training.request import DataArray, Kind, Role, RunRequest

if TYPE_CHECKING:
    import layergraph
    from layergraph.saving.formats import Format


class TrainableModel(Protocol):
    """A model that can be trained. layergraph.Model is one."""

    @property
    def compiled(self) -> bool: ...
    @property
    def compile_config(self) -> Mapping[str, Any] | None:
        """What the model was compiled with, by `compile`'s arguments."""

    @property
    def optimizer(self) -> Any: ...
    @property
    def compile(self) -> Callable[..., None]:
        """Takes Keras's arguments."""

    @property
    def fit(self) -> Callable[..., Any]:
        """Takes Keras's arguments, `seed` and `on_nan`."""

    @property
    def evaluate(self) -> Callable[..., Any]:
        """Takes Keras's arguments."""

    def log_direction(self, name: str) -> str | None:
        """Whether a log is better when it goes "up" or "down"; None where that isn't known."""

    def save(self, path: Path, generation: int | None = None) -> None: ...

    def saved_format(self, name: str) -> Format:
        """The format of that name, or the model's own. Raises ConfigError where it can't hold the model."""


LoadTrainable: TypeAlias = Callable[[Path], TrainableModel]


def load_trainable(path: Path) -> TrainableModel:
    """Reads a model file with layergraph. The import is here so that flags and `--help` don't wait for torch."""
    import layergraph

    return layergraph.load_model(path)


#: Rows of the stand-in for the data that a request is tried with.
REHEARSAL_ROWS = 2


def prepare_model(model: TrainableModel, request: RunRequest) -> None:
    """Freezes layers and compiles as the request says. Raises ConfigError and NotCompiledError."""
    if request.freeze or request.unfreeze:
        from layergraph.training import freezing

        # Before it is compiled: the optimizer's state in the file belongs to the weights that were trained up to now.
        freezing.freeze(cast("layergraph.Model", model), request.freeze)
        freezing.unfreeze(cast("layergraph.Model", model), request.unfreeze)
    compile_model(model, request.compile, updates=request.kind is Kind.TRAINING)
    if request.kind is Kind.TRAINING:
        result_format(model, request)


def result_format(model: TrainableModel, request: RunRequest) -> Format:
    """The format of the run's result. Raises ConfigError where it can't hold the model, compiled as it is."""
    return model.saved_format(request.format or "")


def compile_model(model: TrainableModel, settings: Mapping[str, Any], *, updates: bool = True) -> None:
    """Compiles as the request says; what it leaves out is as in the file, also the optimizer's state.

    Loss weights and metrics of the file belong to its loss: another loss starts without them. Where nothing `updates`
    the weights, no optimizer is needed. Raises NotCompiledError and ConfigError.
    """
    if not settings:
        if not model.compiled:
            raise NotCompiledError("neither the request nor the model file has an optimizer and a loss")
        return
    filed = model.compile_config or {}
    arguments = dict(settings)
    arguments.setdefault("optimizer", model.optimizer)
    if arguments["optimizer"] is None and not updates:
        arguments["optimizer"] = "sgd"
    if "loss" not in settings:
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if filed.get(name) is not None:
                arguments.setdefault(name, filed[name])
    for name in ("optimizer", "loss"):
        if arguments.get(name) is None:
            raise NotCompiledError(
                f"neither the request nor the model file has {'an' if name == 'optimizer' else 'a'} {name}"
            )
    model.compile(**arguments)


def fit_arguments(request: RunRequest, arrays: Sequence[Array]) -> dict[str, Any]:
    """Arguments of `fit` for the request's data: `arrays[i]` is that of `request.data[i]`."""
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
    if request.validation_batch_size:
        arguments["validation_batch_size"] = request.validation_batch_size
    if groups[Role.VALIDATION_X]:
        data: tuple[Any, ...] = (groups[Role.VALIDATION_X], groups[Role.VALIDATION_Y])
        weights = _weights(groups[Role.VALIDATION_SAMPLE_WEIGHT])
        arguments["validation_data"] = data if weights is None else (*data, weights)
    return arguments


def configured_callbacks(request: RunRequest, folder: Path) -> list[Any]:
    """The callbacks that a request asks for; files that they write are below the folder. Raises ConfigError."""
    if not request.callbacks:
        return []
    from layergraph.training.callbacks.table import callback

    return [callback(given, folder) for given in request.callbacks]


def evaluate_arguments(request: RunRequest, arrays: Sequence[Array]) -> dict[str, Any]:
    """Arguments of `evaluate` for the data of an evaluation, or for the validation data of a run that trains."""
    groups = _groups(request, arrays)
    if request.validation_split:
        groups = {role: {name: _last(array, request) for name, array in held.items()} for role, held in groups.items()}
    if groups[Role.VALIDATION_X]:
        x, y, weight = Role.VALIDATION_X, Role.VALIDATION_Y, Role.VALIDATION_SAMPLE_WEIGHT
    else:
        x, y, weight = Role.X, Role.Y, Role.SAMPLE_WEIGHT
    return {
        "x": groups[x],
        "y": groups[y],
        "sample_weight": _weights(groups[weight]),
        "batch_size": request.validation_batch_size or request.batch_size,
        "verbose": 0,
        "return_dict": True,
    }


def monitored(request: RunRequest) -> str:
    """The log by which the best epoch is chosen."""
    return request.monitor or ("val_loss" if request.validates else "loss")


def larger_is_better(model: TrainableModel, log: str, mode: str | None) -> bool:
    """What better means for a log. Raises ConfigError where neither the mode nor the log says it."""
    direction = {"min": "down", "max": "up"}.get(mode or "") or model.log_direction(log.removeprefix("val_"))
    if direction is None:
        raise ConfigError(f"'{log}' doesn't say whether it should be large or small; give monitor_mode min or max")
    return direction == "up"


def dry_run(load: LoadTrainable, path: Path, request: RunRequest) -> None:
    """Trains, or evaluates, a fresh copy of the model on a few rows of zeros, to find out what would be refused.

    So exactly what `fit` and `evaluate` refuse is refused here: compile settings, shapes of targets and weights. Raises
    InvalidRequestError, InvalidTensorError or NotCompiledError.
    """
    model = load(path)
    zeros = [np.zeros(_few_rows(info), info.held_dtype) for info in request.data]
    try:
        prepare_model(model, request)
        if request.workers > 1:
            from layergraph.training.workers import check_shareable

            check_shareable(cast("layergraph.Model", model))
        if request.kind is Kind.EVALUATION:
            model.evaluate(**evaluate_arguments(request, zeros))
        else:
            _dry_run_training(model, request, zeros)
    except NonFiniteLossError:
        pass  # Zeros aren't the data: only their shapes and types were on trial.
    except NotCompiledError as error:
        raise errors.NotCompiledError(str(error)) from error
    except DataError as error:
        raise errors.InvalidTensorError(_with_all_rows(str(error), request.data)) from error
    except (ConfigError, GraphError) as error:
        raise errors.InvalidRequestError(str(error)) from error
    except OSError as error:
        raise errors.InvalidRequestError(f"callbacks: a file can't be written: {error.strerror}") from error


def _dry_run_training(model: TrainableModel, request: RunRequest, zeros: Sequence[Array]) -> None:
    arguments = fit_arguments(request, zeros)
    arguments |= {"epochs": 1, "batch_size": REHEARSAL_ROWS, "on_nan": "continue"}
    if request.validation_split:
        arguments["validation_split"] = 0.5
    with tempfile.TemporaryDirectory() as folder:
        history = model.fit(**arguments, callbacks=configured_callbacks(request, Path(folder)))
    deciding = {"monitor": monitored(request)} if request.publish == "best" else {}
    if request.publish_if_improved:
        deciding["publish_if_improved"] = request.publish_if_improved
    for name, log in deciding.items():
        if log not in history.history:
            raise ConfigError(f"{name}: {unknown_name('log', log, history.history)}")
        larger_is_better(model, log, request.monitor_mode)


def _with_all_rows(text: str, data: Sequence[DataArray]) -> str:
    """A message with the shapes that the data has, in place of those of the few rows that it was tried with."""
    for info in data:
        for rows in range(1, REHEARSAL_ROWS + 1):
            text = text.replace(f"got shape {(rows, *info.shape[1:])}", f"got shape {info.shape}")
    return text


def _groups(request: RunRequest, arrays: Sequence[Array]) -> dict[Role, dict[str, Array]]:
    groups: dict[Role, dict[str, Array]] = {role: {} for role in Role}
    for info, array in zip(request.data, arrays, strict=True):
        groups[info.role][info.name] = array
    return groups


def _last(array: Array, request: RunRequest) -> Array:
    """The rows that validate: Keras trains on the first int(rows * (1 - split))."""
    return array[int(len(array) * (1 - request.validation_split)) :]


def _weights(by_output: dict[str, Array]) -> Any:
    """Sample weights as `fit` takes them: one array for all outputs, or a dict, or None."""
    if not by_output:
        return None
    return by_output.get("", by_output)


def _few_rows(info: DataArray) -> tuple[int, ...]:
    return (min(REHEARSAL_ROWS, info.rows), *info.shape[1:])
