"""Flows of training and evaluation requests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from layerserve.calls.flow import Flow
from layerserve.errors import InvalidArgument, TrainingCancelled
from layerserve.models.changes import VersionWarning
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature, Signatures, fetch_signature
from layerserve.training.data import AllData, TrainingArray, Upload, training_arrays
from layerserve.training.events import Logs, RunFinished
from layerserve.training.feed import RunFeed
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.option import Option, check_names, fill
from layerserve.training.server_file import ServerFile
from layerserve.v1.training_pb2 import EvaluateSpec, TrainSpec
from layerserve.values.casting import check_has_rows


def train(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[RunFeed]:
    """Flow that starts a run. Arguments are checked before anything is sent."""
    data = x, y, sample_weight, validation_data
    spec, arrays = yield from training_request(signatures, model, *data, version, label, options)
    feed = RunFeed()
    yield from feed.start(Upload(spec, arrays))
    return feed


def warn_if_kept_back(feed: RunFeed, label: object, stacklevel: int) -> None:
    """Warns if a run publishes a version that won't be the default, and that gets no label by which to ask for it.

    `stacklevel` is that of `warnings.warn`.
    """
    if feed.kept_back and not label:
        text = f"model {feed.model!r}: the version that this run publishes won't be the default: {feed.kept_back}"
        warnings.warn(text, VersionWarning, stacklevel=stacklevel + 1)


def training_request(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[tuple[TrainSpec, list[TrainingArray]]]:
    """Flow that returns the spec of a run, and the arrays to send. Raises InvalidArgument if an argument is invalid."""
    check_names("train", TRAIN, options)
    spec = TrainSpec(model=model_spec(model, version, label))
    fill(spec, _written(TRAIN, options), options)
    _check_validation(spec, options.get("validation_split"), validation_data)
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = data_arrays(signature, x, y, sample_weight, validation_data, validates=True)
    spec.data.extend(array.announcement() for array in arrays)
    return spec, arrays


def _check_validation(spec: TrainSpec, split: object, validation_data: Any) -> None:
    """Raises InvalidArgument for validation data in two ways, or a `validation_split` that doesn't go with `split`."""
    if split and validation_data is not None:
        raise InvalidArgument("validation_split and validation_data: got both, expected one of the two")
    if isinstance(split, str) != bool(spec.view.split) and split:
        expected = "the name of one of its shares" if spec.view.split else "a share, or split=Split(...), too"
        given = " with a split" if spec.view.split else ""
        raise InvalidArgument(f"validation_split: got {split!r}{given}, expected {expected}")


def evaluate(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[Logs]:
    """Flow that evaluates a model and returns the logs."""
    spec, arrays = yield from evaluation_request(signatures, model, x, y, sample_weight, version, label, options)
    return (yield from evaluated(spec, arrays)).logs


def evaluated(spec: EvaluateSpec, arrays: Sequence[TrainingArray]) -> Flow[RunFinished]:
    """Flow that evaluates and returns the end. Raises TrainingFailed and TrainingCancelled."""
    feed = RunFeed()
    yield from feed.start(Upload(spec, arrays))
    while (yield from feed.next_event()) is not None:
        pass
    if not isinstance(feed.outcome, RunFinished):
        raise TrainingCancelled(feed.run_id)
    return feed.outcome


def evaluation_request(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[tuple[EvaluateSpec, list[TrainingArray]]]:
    """Flow that returns the spec of an evaluation, and the arrays to send. Raises as `training_request` does."""
    check_names("evaluate", EVALUATE, options)
    spec = EvaluateSpec(model=model_spec(model, version, label))
    fill(spec, _written(EVALUATE, options), options)
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = data_arrays(signature, x, y, sample_weight, None, validates=False)
    spec.data.extend(array.announcement() for array in arrays)
    return spec, arrays


def data_arrays(
    signature: Signature,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    *,
    validates: bool,
) -> list[TrainingArray]:
    """Returns the arrays of a request. Raises InvalidArgument as `training_arrays` does.

    As for Keras's `fit`, `x` alone may have all of them: a dataset, or a file of the server with named columns.
    """
    if isinstance(x, AllData):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("validation_data", validation_data)):
            if value is not None:
                raise InvalidArgument(
                    f"{name}: got it with a dataset as x, expected none; a DatasetArray is one array of a dataset"
                )
        return x.training_arrays(signature.inputs, signature.outputs, validates=validates)
    y = _of_one_file(x) if y is None else y
    if isinstance(validation_data, ServerFile):
        validation_data = validation_data, validation_data
    if x is None or y is None:
        if x is not None:  # Keras's `fit` takes batches of both without `y`.
            check_has_rows(x, "x")
        raise InvalidArgument(f"{'x' if x is None else 'y'}: got none, expected data")
    return training_arrays(x, y, sample_weight, validation_data, signature.inputs, signature.outputs)


def _of_one_file(x: Any) -> Any:
    """Returns the file that has the targets, too; None if `x` is one array."""
    return x if isinstance(x, ServerFile) and not x.key and (x.named or not x.columns) else None


def _written(options: Sequence[Option], given: Mapping[str, object]) -> list[Option]:
    """Returns the options to write. A run that goes on from a checkpoint has others from the checkpoint's run."""
    continues = given.get("from_checkpoint") is not None
    return [option for option in options if option.name in given or not (continues and option.continues)]
