"""Specs of runs as the requests that the training processes read: options, data, and what a checkpoint's run had."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layergraph.archive.json_text import JsonError, json_value
from layerserve.training.options.contract import BUDGET, COMPILE, RUN, VIEW, Budget, View
from layerserve.training.options.kinds import Json, splits_problem
from layerserve.training.options.option import Option
from layerserve.v1 import training_pb2 as pb
from layerserve.values.table_files.table import Selection

from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import InvalidRequestError
from layerserve_server.services.messages import dtype_name
from layerserve_server.training.from_checkpoint import Start, merged
from layerserve_server.training.lora import lora_settings
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest

ROLES: dict[int, Role] = {
    pb.DATA_ROLE_X: Role.X,
    pb.DATA_ROLE_Y: Role.Y,
    pb.DATA_ROLE_SAMPLE_WEIGHT: Role.SAMPLE_WEIGHT,
    pb.DATA_ROLE_VALIDATION_X: Role.VALIDATION_X,
    pb.DATA_ROLE_VALIDATION_Y: Role.VALIDATION_Y,
    pb.DATA_ROLE_VALIDATION_SAMPLE_WEIGHT: Role.VALIDATION_SAMPLE_WEIGHT,
}
#: Maximum length in characters, number of values and nesting depth of JSON fields.
MAX_JSON = 4 << 20
MAX_JSON_VALUES = 200_000
MAX_JSON_DEPTH = 64


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """The server's settings for all runs: compute threads, torch device, niceness, and the fields below."""

    threads: int
    device: str
    nice: int
    #: Default time between checkpoints, in seconds.
    checkpoint_seconds: float
    #: Folder of data files; None if the server reads none.
    data_root: Path | str | None


def training_request(
    spec: pb.TrainSpec, model: str, version: int, defaults: RunDefaults, start: Start | None = None
) -> RunRequest:
    """Converts the spec of a training run. Raises InvalidRequestError or InvalidTensorError if it is invalid."""
    if spec.publish_choice not in pb.PublishChoice.values():
        raise InvalidRequestError(f"publish_choice: got {spec.publish_choice}, expected one of PublishChoice")
    if spec.publish_choice == pb.PUBLISH_CHOICE_BEST and spec.HasField("publish") and not spec.publish:
        raise InvalidRequestError("publish_choice: given for a run that doesn't publish its result")
    filled = {"seed": secrets.randbelow(2**31), "checkpoint_seconds": defaults.checkpoint_seconds}
    budget = Budget(**read_options(BUDGET, spec))
    view = View(**read_options(VIEW, spec))
    given = read_options(RUN, spec)
    request = RunRequest(
        **common_fields(spec, model, version, defaults),
        data=_data(spec, defaults.data_root),
        **(filled | given),
        budget=budget,
        view=view,
    )
    return request if start is None else _continued(request, start, given)


def evaluation_request(
    spec: pb.EvaluateSpec, model: str, version: int, defaults: RunDefaults, start: Start | None = None
) -> RunRequest:
    options = read_options((option for option in RUN if option.evaluates), spec)
    request = RunRequest(
        **common_fields(spec, model, version, defaults),
        data=_data(spec, defaults.data_root),
        **options,
        view=View(**read_options(VIEW, spec)),
        kind=EVALUATION,
        publish=False,
        sample_losses=spec.sample_losses,
    )
    return request if start is None else _continued(request, start, options)


def _continued(request: RunRequest, start: Start, given: Mapping[str, Any]) -> RunRequest:
    """Returns the request of a run that begins with a checkpoint: what isn't given is as in the checkpoint's run."""
    taken_over = start.taken_over(request.kind, {array.role for array in request.data})
    changes: dict[str, Any] = {name: value for name, value in taken_over.items() if name not in given}
    changes["compile"] = merged(start.request.compile, request.compile)
    return replace(request, version=start.request.version, from_checkpoint=start.name, **changes)


def read_options(options: Iterable[Option], spec: Any) -> dict[str, Any]:
    """Returns the values of the given options of a spec, by name."""
    given = ((option, option.read(spec)) for option in options)
    return {option.name: _value(option, value) for option, value in given if value is not None}


def _value(option: Option, value: Any) -> Any:
    if not isinstance(option.kind, Json):
        return value
    read = parsed_json(value, option.name)
    checked = _READERS.get(option.name)
    return read if checked is None else checked(read)


def common_fields(spec: Any, model: str, version: int, defaults: RunDefaults) -> dict[str, Any]:
    """Returns the fields of a request that all specs of runs have in common."""
    return {
        "model": model,
        "version": version,
        "compile": read_options(COMPILE, spec),
        "threads": defaults.threads,
        "device": defaults.device,
        "nice": defaults.nice,
    }


def _data(spec: pb.TrainSpec | pb.EvaluateSpec, data_root: Path | str | None) -> tuple[DataArray, ...]:
    return tuple(_array(array, str(data_root or "")) for array in spec.data)


def _array(array: pb.DataArray, data_root: str) -> DataArray:
    role = ROLES.get(array.role)
    if role is None:
        raise InvalidRequestError(f"data array '{array.name}': got no role, expected one")
    if array.path and array.dataset:
        raise InvalidRequestError(f"data array '{array.name}': got a path and a dataset, expected one of the two")
    filed = bool(array.path or array.dataset)
    if array.key and array.columns:
        raise InvalidRequestError(f"data array '{array.name}': got key and columns, expected one of the two")
    return DataArray(
        role,
        array.name,
        "" if filed and not array.dtype else dtype_name(array.dtype, array.name),
        tuple(array.shape),
        # Where the file of a dataset is, is found out later, for its caller.
        DataFile("" if array.dataset else data_root, array.path, array.dataset) if filed else None,
        Selection(tuple(array.columns), array.key, fill=array.fill if array.HasField("fill") else None),
    )


def _callbacks(given: Any) -> tuple[Any, ...]:
    if given is not None and not isinstance(given, list):
        raise InvalidRequestError('callbacks: expected a list of names and objects, such as ["TerminateOnNaN"]')
    return tuple(given or ())


def parsed_json(text: str, name: str) -> Any:
    """Parses a JSON field; None if it is empty. Raises InvalidRequestError if it is invalid or exceeds a limit."""
    if not text:
        return None
    try:
        return json_value(text, most=MAX_JSON, values=MAX_JSON_VALUES, depth=MAX_JSON_DEPTH)
    except JsonError as error:
        raise InvalidRequestError(f"{name}: {text[:80]!r} {error}") from error


def _splits(splits: Any) -> dict[str, float] | None:
    if splits is None:
        return None
    problem = splits_problem(splits) if isinstance(splits, dict) else "no object"
    if problem:
        raise InvalidRequestError(f"view: got {problem}, expected shares by name, together at most 1")
    return {name: float(share) for name, share in splits.items()}


def _class_weight(weights: Any) -> dict[int, float] | None:
    if weights is None:
        return None
    if isinstance(weights, dict):
        try:
            return {int(key): float(weight) for key, weight in weights.items()}
        except (ValueError, TypeError, OverflowError):
            pass
    raise InvalidRequestError('class_weight: expected an object with weights by class number, such as {"0": 1.0}')


#: What reads the JSON of an option, for those that aren't used as it is.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "callbacks": _callbacks,
    "splits": _splits,
    "lora": lora_settings,
    "class_weight": _class_weight,
}
