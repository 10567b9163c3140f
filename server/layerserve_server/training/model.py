"""What training needs of a model, and how a run's request is told to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from layergraph.errors import ConfigError, DataError, GraphError, NonFiniteLossError, NotCompiledError

from layerserve_server import errors
from layerserve_server.execution import Array
from layerserve_server.training.request import DataArray, Role, RunRequest


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
        """Takes Keras's arguments, `seed` and `stop_on_nan`."""

    def save(self, path: Path) -> None: ...


LoadTrainable: TypeAlias = Callable[[Path], TrainableModel]


def load_trainable(path: Path) -> TrainableModel:
    """Reads a model file with layergraph. The import is here so that flags and `--help` don't wait for torch."""
    import layergraph

    return layergraph.load_model(path)


#: Rows of the stand-in for the data that a request is tried with.
REHEARSAL_ROWS = 2


def compile_model(model: TrainableModel, settings: Mapping[str, Any]) -> None:
    """Compiles as the request says; what it leaves out is as in the file, also the optimizer's state.

    Loss weights and metrics of the file belong to its loss: another loss starts without them.
    """
    if not settings:
        if not model.compiled:
            raise NotCompiledError("neither the request nor the model file has an optimizer and a loss")
        return
    filed = model.compile_config or {}
    arguments = dict(settings)
    arguments.setdefault("optimizer", model.optimizer)
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
    groups: dict[Role, dict[str, Array]] = {role: {} for role in Role}
    for info, array in zip(request.data, arrays, strict=True):
        groups[info.role][info.name] = array
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
        "stop_on_nan": True,
    }
    if groups[Role.VALIDATION_X]:
        data: tuple[Any, ...] = (groups[Role.VALIDATION_X], groups[Role.VALIDATION_Y])
        weights = _weights(groups[Role.VALIDATION_SAMPLE_WEIGHT])
        arguments["validation_data"] = data if weights is None else (*data, weights)
    return arguments


def rehearse(load: LoadTrainable, path: Path, request: RunRequest) -> None:
    """Trains a fresh copy of the model on a few rows of zeros, to find out what training would refuse.

    So exactly what `fit` refuses is refused here: compile settings, shapes of targets and weights. Raises
    InvalidRequestError, InvalidTensorError or NotCompiledError.
    """
    model = load(path)
    zeros = [np.zeros(_few_rows(info), info.held_dtype) for info in request.data]
    arguments = fit_arguments(request, zeros) | {"epochs": 1, "batch_size": REHEARSAL_ROWS}
    if request.validation_split:
        arguments["validation_split"] = 0.5
    try:
        compile_model(model, request.compile)
        model.fit(**arguments)
    except NonFiniteLossError:
        pass  # Zeros aren't the data: only their shapes and types were on trial.
    except NotCompiledError as error:
        raise errors.NotCompiledError(str(error)) from error
    except DataError as error:
        raise errors.InvalidTensorError(str(error)) from error
    except (ConfigError, GraphError) as error:
        raise errors.InvalidRequestError(str(error)) from error


def _weights(by_output: dict[str, Array]) -> Any:
    """Sample weights as `fit` takes them: one array for all outputs, or a dict, or None."""
    if not by_output:
        return None
    return by_output.get("", by_output)


def _few_rows(info: DataArray) -> tuple[int, ...]:
    return (min(REHEARSAL_ROWS, info.rows), *info.shape[1:])
