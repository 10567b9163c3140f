"""Train: settings and arrays to a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerserve.compile_settings import class_weight_json, compile_settings
from layerserve.errors import InvalidArgument
from layerserve.flow import Flow
from layerserve.model_info import model_spec
from layerserve.prediction import Signatures, fetch_signature
from layerserve.run_feed import RunFeed
from layerserve.training_data import Upload, training_arrays
from layerserve.v1.training_pb2 import TrainSpec


def train(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int,
    validation_data: Sequence[Any] | None,
    validation_split: float,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
    shuffle: bool,
    seed: int | None,
    optimizer: Any,
    loss: Any,
    loss_weights: Any,
    metrics: Any,
    weighted_metrics: Any,
    publish: bool,
    publish_label: str | None,
    description: str,
    version: int | None,
    label: str | None,
) -> Flow[RunFeed]:
    """The flow that starts a run: what can be checked here is checked before anything is sent."""
    _check_at_least_one("epochs", epochs)
    _check_at_least_one("batch_size", batch_size)
    if not 0 <= validation_split < 1:
        raise InvalidArgument(f"validation_split: got {validation_split}, expected a share from 0 to 1 (exclusive)")
    if validation_split and validation_data is not None:
        raise InvalidArgument("validation_split and validation_data: got both, expected one of the two")
    if publish_label and not publish:
        raise InvalidArgument(f"publish_label: got {publish_label!r} with publish=False, expected none")
    spec = TrainSpec(
        model=model_spec(model, version, label),
        compile=compile_settings(optimizer, loss, loss_weights, metrics, weighted_metrics),
        epochs=epochs,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        validation_split=validation_split,
        publish=publish,
        publish_label=publish_label or "",
        description=description,
        class_weight=class_weight_json(class_weight),
    )
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = training_arrays(x, y, sample_weight, validation_data, signature.inputs, signature.outputs)
    spec.data.extend(array.announcement() for array in arrays)
    feed = RunFeed()
    yield from feed.start(Upload(spec, arrays))
    return feed


def _check_at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or value != int(value) or not 1 <= value < 2**31:
        raise InvalidArgument(f"{name}: got {value!r}, expected a whole number from 1")
