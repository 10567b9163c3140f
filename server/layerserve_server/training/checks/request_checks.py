"""Validation of a training request against the model's inputs and outputs, before any data is uploaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from layergraph.errors import unknown_name
from layerserve.training.options.contract import BUDGET, RUN, VIEW, View
from layerserve.training.options.kinds import SHARE, Key, Metadata, Number, Whole, Words
from layerserve.training.options.option import Option
from layerserve.values.table_files.table import FileArray, Selection

from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.npy_files import MAX_AXES
from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    TooLargeError,
    UnknownInputError,
    UnknownOutputError,
    safe_text,
)
from layerserve_server.inference.admission import fit_dtype, fit_shape, names
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.layout import LABEL
from layerserve_server.training import data_split
from layerserve_server.training.checkpoint_policy import check_policy
from layerserve_server.training.checks.problems import RAISING, NotesContext, results
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest

#: Maximum number of arrays per run: each is an open file during the upload.
MAX_ARRAYS = 512
#: Maximum number of columns of files that are named for all arrays.
MAX_COLUMNS = 10_000
#: Maximum number of epochs: each adds an event, and a starting server reads all events.
MAX_EPOCHS = 100_000
#: Maximum length of a description, and of a name, pattern or path, in characters.
MAX_DESCRIPTION = 10_000
MAX_TEXT = 1000
#: Maximum number of patterns in `freeze`.
MAX_PATTERNS = 1000
#: Maximum number of callbacks: each may hold a copy of the weights.
MAX_CALLBACKS = 50
#: Maximum number of classes with a weight, and maximum weight, that of float32.
MAX_CLASSES = 100_000
MAX_WEIGHT = float(np.finfo(np.float32).max)


#: Describes arrays in files. Raises as `reader.describe` does.
Describe: TypeAlias = Callable[[Sequence[tuple[DataFile, Selection]]], Sequence[tuple[DataFile, FileArray]]]


def checked(
    request: RunRequest,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_bytes: int,
    describe: Describe,
    notes: NotesContext = RAISING,
) -> RunRequest | None:
    """Returns a request with the names of its arrays, and the dtypes and shapes of data files, filled in.

    Raises InvalidRequestError or a subclass if it doesn't match the model's inputs and outputs, TooLargeError if the
    data has more than `max_bytes`, and the errors of `reader.describe`. `notes` may collect them instead: returns
    None if there is a problem with the data.
    """
    _check_lengths(request)
    for check in _settings_checks(request):
        with notes:
            check()
    if not request.has_data:
        return request
    filled = _with_data(request, inputs, outputs, describe, notes)
    if filled is not None:
        with notes:
            _check_size(filled, max_bytes)
    with notes:
        _check_publication(filled or request)
    with notes:
        check_policy(filled or request)
    return filled


def _with_data(
    request: RunRequest,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    describe: Describe,
    notes: NotesContext,
) -> RunRequest | None:
    """Returns a request with its arrays filled in; None if there is a problem with one of them."""
    named = results([partial(_named, array, inputs, outputs) for array in request.data], notes)
    texts = {spec.name for spec in inputs if spec.dtype == "string"}
    if named is None or (filed := results([lambda: _filed(named, texts, describe)], notes)) is None:
        return None
    (arrays,) = filed
    single: list[Callable[[], None]] = [partial(_check_kind, request, arrays), partial(_check_repeats, arrays)]
    if results(single + [partial(_check_array, array, inputs) for array in arrays], notes) is None:
        return None
    checked_request = replace(request, data=arrays)
    together = partial(_check_data, checked_request, inputs, outputs)
    return None if results([together], notes) is None else checked_request


def _check_data(request: RunRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Checks the arrays of a request together."""
    training = [array for array in request.data if not array.role.validation]
    validation = [array for array in request.data if array.role.validation]
    _check_group(f"{request.kind} data", training, inputs, outputs)
    if validation:
        _check_group("validation data", validation, inputs, outputs)
        if request.validation_split:
            raise InvalidRequestError("validation_split and validation arrays exclude each other: got both")
    _check_split(request.validation_split, training[0].rows)
    _check_view(request, training[0].rows, validates=bool(validation))


def _check_size(request: RunRequest, max_bytes: int) -> None:
    if request.kept_bytes > max_bytes:
        raise TooLargeError(
            f"the data has {request.kept_bytes} bytes, expected at most {max_bytes} (setting 'max_run_bytes')"
        )


def checked_batch(
    arrays: Sequence[DataArray], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, predicts: bool
) -> tuple[DataArray, ...]:
    """Returns the arrays of a batch with their names filled in; `predicts` is whether x is all that is expected.

    Raises InvalidRequestError or a subclass if they don't match the model's inputs and outputs.
    """
    named = tuple(_named(array, inputs, outputs) for array in arrays)
    _check_repeats(named)
    for array in named:
        _check_array(array, inputs)
    _check_group("batch", named, inputs, () if predicts else outputs)
    return named


def with_valid_options(request: RunRequest) -> RunRequest:
    """Returns a request with the default of each option whose value isn't valid, so that the others can be tried."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(RunRequest)}
    names = [option.name for option in RUN if not _is_valid(option, getattr(request, option.name))]
    return replace(request, **{name: defaults[name] for name in names})


def check_workers(request: RunRequest, max_workers: int) -> None:
    """Raises InvalidRequestError if a request has more workers than `max_workers`, or than rows in a batch."""
    if not 1 <= request.workers <= max_workers:
        raise InvalidRequestError(
            f"workers: got {request.workers}, expected at most {max_workers}, the server's setting max_workers"
        )
    if request.workers > request.batch_size >= 1:
        raise InvalidRequestError(
            f"workers: got {request.workers} for batches of {request.batch_size} rows, expected at most one per row"
        )


def _check_lengths(request: RunRequest) -> None:
    """Checks the lengths of texts and lists, before anything else is done with them."""
    check_description(request.description)
    for name, length, limit, unit in (
        ("data", len(request.data), MAX_ARRAYS, "arrays"),
        ("monitor", len(request.monitor or ()), MAX_TEXT, "characters"),
        ("publish_label", len(request.publish_label or ()), MAX_TEXT, "characters"),
        ("from_checkpoint", len(request.from_checkpoint or ()), MAX_TEXT, "characters"),
        ("publish_if_improved", len(request.publish_if_improved or ()), MAX_TEXT, "characters"),
        ("freeze", len(request.freeze), MAX_PATTERNS, "patterns"),
        ("lora.layers", len((request.lora or {}).get("layers", ())), MAX_PATTERNS, "patterns"),
        ("callbacks", len(request.callbacks or ()), MAX_CALLBACKS, "callbacks"),
        ("class_weight", len(request.class_weight or ()), MAX_CLASSES, "classes"),
    ):
        if length > limit:
            raise InvalidRequestError(f"{name}: got {length} {unit}, expected at most {limit}")
    for name, texts in (
        ("freeze", request.freeze),
        ("lora.layers", (request.lora or {}).get("layers", ())),
        *(
            (f"data {index}", (array.name, array.file.path if array.file is not None else "", *_texts(array.selection)))
            for index, array in enumerate(request.data)
        ),
    ):
        if (length := max(map(len, texts), default=0)) > MAX_TEXT:
            raise InvalidRequestError(f"{name}: got a text of {length} characters, expected at most {MAX_TEXT}")
    if (columns := sum(len(array.selection.columns) for array in request.data)) > MAX_COLUMNS:
        raise InvalidRequestError(f"data: got {columns} columns, expected at most {MAX_COLUMNS}")
    for index, array in enumerate(request.data):
        if len(array.shape) > MAX_AXES:
            raise InvalidTensorError(f"data {index}: got {len(array.shape)} axes, expected at most {MAX_AXES}")


def _texts(selection: Selection) -> tuple[str, ...]:
    return (selection.key, selection.fill or "", *selection.columns)


def _settings_checks(request: RunRequest) -> Iterator[Callable[[], None]]:
    """Yields the checks of a request's settings, which don't depend on one another."""
    yield partial(_check_epochs, request)
    yield partial(_check_class_weight, request)
    yield partial(_check_label, request)
    yield partial(_check_conflicts, request)
    for options, holder in ((RUN, request), (BUDGET, request.budget), (VIEW, request.view)):
        for option in options:
            yield partial(check_range, option, getattr(holder, option.name))


def _check_epochs(request: RunRequest) -> None:
    if request.epochs > MAX_EPOCHS:
        raise InvalidRequestError(f"epochs: got {request.epochs}, expected at most {MAX_EPOCHS}")


def _check_class_weight(request: RunRequest) -> None:
    for number, weight in (request.class_weight or {}).items():
        if not abs(weight) <= MAX_WEIGHT:  # also refuses NaN
            raise InvalidRequestError(
                f"class_weight: got {weight:g} for class {str(number)[:20]}, expected a number of float32, of at most "
                f"{MAX_WEIGHT:.3g}"
            )


def _check_label(request: RunRequest) -> None:
    if request.publish_label and not LABEL.fullmatch(request.publish_label):
        raise InvalidRequestError(
            f"publish_label: got {request.publish_label!r}, expected letters, digits, '.', '_' and '-'"
        )


def check_range(option: Option, value: Any) -> None:
    """Raises InvalidRequestError if an option doesn't have this value."""
    if isinstance(option.kind, (Key, Metadata)):
        return  # checked above, without repeating a long value
    if not _is_valid(option, value):
        raise InvalidRequestError(f"{option.path}: got {value!r}, expected {_range(option)}")


def _is_valid(option: Option, value: Any) -> bool:
    given = value or option.default is not None  # without a default, 0 and "" mean that the option isn't given
    return not given or option.kind.valid(value)


def check_description(text: str) -> None:
    """Raises InvalidRequestError if a description is too long."""
    if len(text) > MAX_DESCRIPTION:
        raise InvalidRequestError(f"description: got {len(text)} characters, expected at most {MAX_DESCRIPTION}")


def checked_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Returns metadata. Raises InvalidRequestError if there is too much of it, or a key or a value is invalid."""
    kind = Metadata()
    if kind.valid(metadata):
        return metadata
    one = next((key for key in sorted(metadata) if not kind.valid({key: metadata[key]})), None)
    got = f"{len(metadata)} keys" if one is None else f"key '{safe_text(one, 80)}' with {len(metadata[one])} characters"
    raise InvalidRequestError(f"metadata: got {got}, expected {kind.expects}")


def _check_conflicts(request: RunRequest) -> None:
    checked_metadata(request.metadata or {})
    check_key(request.idempotency_key)
    expected = request.expected_base_version
    if expected and not request.publish:
        raise InvalidRequestError("expected_base_version: given for a run that doesn't publish its result")
    if request.on_conflict == "rebase":
        if not expected:
            raise InvalidRequestError("on_conflict: given without expected_base_version")
        if not request.validates:
            raise InvalidRequestError("on_conflict: rebase requires validation data or a validation_split")


def check_key(key: str | None) -> None:
    """Raises InvalidRequestError if there is an idempotency key that can't be one."""
    if key and not Key().valid(key):
        raise InvalidRequestError(f"idempotency_key: got '{safe_text(key, 150)}', expected {Key().expects}")


def _range(option: Option) -> str:
    """Returns the valid values in words, including 0 if that means that the option isn't given."""
    if isinstance(option.kind, Words):
        return " or ".join(option.kind.words)
    if option.kind is SHARE:
        return "from 0 to below 1"
    if isinstance(option.kind, Number) and not isinstance(option.kind, Whole) and math.isfinite(option.kind.limit):
        return option.kind.expects
    least = option.kind.least if isinstance(option.kind, Number) and option.default is not None else 0
    return f"{least} or more"


def _check_publication(request: RunRequest) -> None:
    """Checks that the options about publishing are consistent. Whether the logs exist is checked in the dry run."""
    if not request.publish:
        for name, given in (
            ("publish_label", request.publish_label),
            ("publish_if_improved", request.publish_if_improved),
        ):
            if given:
                raise InvalidRequestError(f"{name}: given for a run that doesn't publish its result")
    if not request.validates:
        if request.publish_if_improved:
            raise InvalidRequestError("publish_if_improved: requires validation data or a validation_split")
        if request.publish == "best" and (request.monitor or "").startswith("val_"):
            raise InvalidRequestError(f"monitor: '{request.monitor}' requires validation data or a validation_split")


def _filed(arrays: Sequence[DataArray], texts: Set[str], describe: Describe) -> tuple[DataArray, ...]:
    """Returns the arrays with the dtype and shape of their files, if any. Raises as `reader.describe` does.

    `texts` are the inputs that take text.
    """
    wanted: list[tuple[DataFile, Selection]] = []
    for array in arrays:
        if array.file is None:
            if array.selection.columns or array.selection.fill is not None:
                raise InvalidRequestError(f"{array.label()}: got columns or fill, expected them for a file only")
            continue
        if array.shape or array.dtype:
            raise InvalidRequestError(f"{array.label()}: got dtype or shape with a file, expected them from the file")
        array.file.check()
        wanted.append((array.file, _wanted(array, texts)))
    found = iter(describe(wanted) if wanted else ())
    return tuple(array if array.file is None else _with_file(array, *next(found)) for array in arrays)


def _wanted(array: DataArray, texts: Set[str]) -> Selection:
    """Returns what is read of an array's file: as text, as numbers, or for targets as what is there."""
    text = (array.name in texts) if array.role.use is Role.X else (None if array.role.use is Role.Y else False)
    return replace(array.selection, name=array.name, text=text)


def _with_file(array: DataArray, file: DataFile, found: FileArray) -> DataArray:
    selection = Selection(found.columns, fill=found.fill)
    return replace(array, dtype=found.dtype, shape=found.shape, file=file, selection=selection, mapped=found.mapped)


def _named(array: DataArray, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> DataArray:
    """Returns an array with its name resolved.

    An empty name means the only input or output; for sample weights, also all outputs.
    """
    is_input = array.role.use is Role.X
    specs, kind = (inputs, "input") if is_input else (outputs, "output")
    known = [spec.name for spec in specs]
    if array.name:
        if array.name not in known:
            text = f"{array.role.value}: {unknown_name(kind, array.name, known)}"
            raise UnknownInputError(text) if is_input else UnknownOutputError(text)
        return array
    if len(known) == 1:
        return replace(array, name=known[0])
    if array.role.use is Role.SAMPLE_WEIGHT:
        return array
    text = f"{array.role.value}: got an array without a name, but the model has {len(known)} {kind}s: {names(specs)}"
    raise UnknownInputError(text) if is_input else UnknownOutputError(text)


def _check_kind(request: RunRequest, arrays: Sequence[DataArray]) -> None:
    if request.kind == EVALUATION:
        for array in arrays:
            if array.role.validation:
                raise InvalidRequestError(f"{array.label()}: evaluation takes x, y and sample_weight")
        if request.view.validate_on:
            raise InvalidRequestError(
                f"view: got validation '{request.view.validate_on}', expected none: evaluation takes a split"
            )


def _check_repeats(arrays: Sequence[DataArray]) -> None:
    seen: set[tuple[Role, str]] = set()
    for array in arrays:
        if (array.role, array.name) in seen:
            raise InvalidRequestError(f"{array.label()}: given twice")
        seen.add((array.role, array.name))


def _check_array(array: DataArray, inputs: Sequence[TensorSpec]) -> None:
    label = array.label()
    if not array.shape:
        raise InvalidTensorError(f"{label}: got a scalar, expected a first axis of rows")
    if any(length < 0 for length in array.shape):
        raise InvalidTensorError(f"{label}: got shape {array.shape}, expected no negative length")
    if array.is_text and array.role.use is not Role.X:
        raise InvalidTensorError(f"{label}: got dtype string, expected numbers, such as class indices")
    if math.prod(axis for axis in array.shape if axis) > 2**56:
        raise TooLargeError(f"{label}: shape {array.shape} is too large")
    if array.role.use is Role.X:
        spec = next(spec for spec in inputs if spec.name == array.name)
        # A fixed number of rows in the spec is the batch size; the data has any number of batches.
        rows = array.shape[0] if spec.shape[0] is None else spec.shape[0]
        # Placeholders without memory: a broadcast one for the shape, an empty one for the dtype.
        fit_shape(label, spec, np.broadcast_to(np.zeros((), array.held_dtype), (rows, *array.shape[1:])))
        fit_dtype(label, np.zeros(0, array.held_dtype), spec.dtype)


def _check_group(
    label: str, arrays: Sequence[DataArray], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Checks that training or validation data is complete and that its arrays have the same number of rows."""
    missing = {spec.name for spec in inputs} - {array.name for array in arrays if array.role.use is Role.X}
    if missing:
        raise MissingInputError(f"{label}: no x for input {' and '.join(map(repr, sorted(missing)))}")
    if outputs and not any(array.role.use is Role.Y for array in arrays):
        raise InvalidRequestError(f"{label}: no y; expected targets for {names(outputs)}")
    rows = {array.label(): array.rows for array in arrays}
    if len(set(rows.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InvalidTensorError(f"{label}: arrays differ in rows: {shown}; expected the same number for all")
    if not arrays[0].rows:
        raise InvalidTensorError(f"{label}: got no rows, expected 1 or more")


def _check_view(request: RunRequest, rows: int, *, validates: bool) -> None:
    """Checks which rows are used of `rows` rows; `validates` is whether there are validation arrays."""
    view = request.view
    data_split.check(view, rows)
    if view.validate_on and validates:
        raise InvalidRequestError("view: got a split for validation and validation arrays, expected one of the two")
    if request.validation_split and view != View():
        raise InvalidRequestError("validation_split: got it with a view, expected the view's split for validation")


def _check_split(split: float, rows: int) -> None:
    # Keras trains on the first int(rows * (1 - split)) rows and validates on the others.
    if split and not (SHARE.valid(split) and 0 < int(rows * (1 - split)) < rows):
        raise InvalidRequestError(
            f"validation_split: {split} of {rows} rows leaves none for training or for validation"
        )
