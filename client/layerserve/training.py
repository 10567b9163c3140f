"""Flows of training and evaluation requests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from layerserve.casting import check_has_rows
from layerserve.dataset_info import read_dataset
from layerserve.dataset_roles import dataset_arrays
from layerserve.errors import InvalidArgument, TrainingCancelled
from layerserve.events import Logs, RunFinished
from layerserve.flow import Flow, call
from layerserve.methods import GET_DATASET
from layerserve.model_changes import VersionWarning
from layerserve.model_info import model_spec
from layerserve.options.option import Option, check_names, fill
from layerserve.options.training import EVALUATE, TRAIN
from layerserve.prediction import Signature, Signatures, fetch_signature
from layerserve.run_feed import RunFeed
from layerserve.training_data import TrainingArray, Upload, training_arrays
from layerserve.v1.datasets_pb2 import GetDatasetRequest
from layerserve.v1.training_pb2 import EvaluateSpec, TrainSpec


def train(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Sequence[Any] | None,
    dataset: str | None,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[RunFeed]:
    """Flow that starts a run. Arguments are checked before anything is sent."""
    data = x, y, sample_weight, validation_data
    spec, arrays = yield from training_request(signatures, model, *data, dataset, version, label, options)
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
    validation_data: Sequence[Any] | None,
    dataset: str | None,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[tuple[TrainSpec, list[TrainingArray]]]:
    """Flow that returns the spec of a run, and the arrays to send. Raises InvalidArgument if an argument is invalid."""
    check_names("train", TRAIN, options)
    spec = TrainSpec(model=model_spec(model, version, label))
    fill(spec, _written(TRAIN, options), options)
    if spec.validation_split and validation_data is not None:
        raise InvalidArgument("validation_split and validation_data: got both, expected one of the two")
    for name, value in (("publish_label", spec.publish_label), ("publish_if_improved", spec.publish_if_improved)):
        if value and not spec.publish:
            raise InvalidArgument(f"{name}: got {value!r} with publish=False, expected none")
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = yield from _arrays(signature, dataset, x, y, sample_weight, validation_data, validates=True)
    spec.data.extend(array.announcement() for array in arrays)
    return spec, arrays


def evaluate(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    dataset: str | None,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[Logs]:
    """Flow that evaluates a model and returns the logs."""
    spec, arrays = yield from evaluation_request(
        signatures, model, x, y, sample_weight, dataset, version, label, options
    )
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
    dataset: str | None,
    version: int | None,
    label: str | None,
    options: Mapping[str, object],
) -> Flow[tuple[EvaluateSpec, list[TrainingArray]]]:
    """Flow that returns the spec of an evaluation, and the arrays to send. Raises as `training_request` does."""
    check_names("evaluate", EVALUATE, options)
    spec = EvaluateSpec(model=model_spec(model, version, label))
    fill(spec, _written(EVALUATE, options), options)
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = yield from _arrays(signature, dataset, x, y, sample_weight, None, validates=False)
    spec.data.extend(array.announcement() for array in arrays)
    return spec, arrays


def _arrays(
    signature: Signature,
    dataset: str | None,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Sequence[Any] | None,
    *,
    validates: bool,
) -> Flow[list[TrainingArray]]:
    """Flow of the arrays of a request: those that are given, or those of a dataset. Raises InvalidArgument."""
    if dataset is None:
        if x is None or y is None:
            if x is not None:  # Keras's `fit` takes batches of both without `y`.
                check_has_rows(x, "x")
            raise InvalidArgument(f"{'x' if x is None else 'y'}: got none, expected data, or a dataset")
        return training_arrays(x, y, sample_weight, validation_data, signature.inputs, signature.outputs)
    given = {"x": x, "y": y, "sample_weight": sample_weight, "validation_data": validation_data}
    for name, value in given.items():
        if value is not None:
            raise InvalidArgument(f"{name}: got it with a dataset, expected one of the two; see DatasetArray")
    reply = yield from call(GET_DATASET, GetDatasetRequest(dataset_id=dataset))
    return dataset_arrays(read_dataset(reply.dataset), signature.inputs, signature.outputs, validates=validates)


def _written(options: Sequence[Option], given: Mapping[str, object]) -> list[Option]:
    """Returns the options to write. A run that goes on from a checkpoint has others from the checkpoint's run."""
    continues = given.get("from_checkpoint") is not None
    return [option for option in options if option.name in given or not (continues and option.continues)]
