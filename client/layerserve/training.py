"""Train and evaluate: settings and arrays to a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerserve.compile_settings import callbacks_json, class_weight_json, compile_settings
from layerserve.errors import InvalidArgument, TrainingCancelled
from layerserve.events import Logs, RunFinished
from layerserve.flow import Flow
from layerserve.model_info import model_format, model_spec
from layerserve.prediction import Signatures, fetch_signature
from layerserve.run_feed import RunFeed
from layerserve.training_data import Upload, training_arrays
from layerserve.v1 import training_pb2
from layerserve.v1.training_pb2 import Budget, EvaluateSpec, NanPolicy, PublishChoice, TrainSpec

#: What `publish` may be, and whether that publishes anything and which weights.
_PUBLISH: dict[Any, tuple[bool, PublishChoice.ValueType]] = {
    True: (True, training_pb2.PUBLISH_CHOICE_LAST),
    False: (False, training_pb2.PUBLISH_CHOICE_UNSPECIFIED),
    "last": (True, training_pb2.PUBLISH_CHOICE_LAST),
    "best": (True, training_pb2.PUBLISH_CHOICE_BEST),
}
_NAN: dict[str, NanPolicy.ValueType] = {
    "stop": training_pb2.NAN_POLICY_STOP,
    "continue": training_pb2.NAN_POLICY_CONTINUE,
}


@dataclass(frozen=True)
class TrainSettings:
    """The settings of `Client.train`, by its parameters."""

    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    validation_split: float
    validation_batch_size: int | None
    class_weight: Mapping[int, float] | None
    shuffle: bool
    seed: int | None
    optimizer: Any
    loss: Any
    loss_weights: Any
    metrics: Any
    weighted_metrics: Any
    freeze: str | Sequence[str]
    unfreeze: str | Sequence[str]
    callbacks: Any
    publish: bool | str
    publish_label: str | None
    format: str | None
    monitor: str | None
    monitor_mode: str | None
    publish_if_improved: str | None
    priority: int
    workers: int
    checkpoint_seconds: float | None
    on_nan: str
    max_seconds: float | None
    max_memory_bytes: int | None
    max_disk_bytes: int | None
    description: str

    def check(self) -> None:
        """Raises InvalidArgument for what can mean nothing, whatever the model is."""
        for name in ("epochs", "batch_size", "workers"):
            _check_at_least_one(name, getattr(self, name))
        for name in ("steps_per_epoch", "validation_batch_size", "max_memory_bytes", "max_disk_bytes"):
            if getattr(self, name) is not None:
                _check_at_least_one(name, getattr(self, name), limit=2**63)
        for name, least, limit in (("priority", -(2**31), 2**31), ("seed", 0, 2**63)):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and least <= value < limit):
                raise InvalidArgument(
                    f"{name}: got {value!r}, expected a whole number" + (" from 0" if not least else "")
                )
        for name in ("checkpoint_seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value < math.inf):
                raise InvalidArgument(f"{name}: got {value!r}, expected seconds from 0")
        if not (_is_number(self.validation_split) and 0 <= self.validation_split < 1):
            raise InvalidArgument(
                f"validation_split: got {self.validation_split!r}, expected a share from 0 to 1 (exclusive)"
            )
        if not isinstance(self.publish, (bool, str)) or self.publish not in _PUBLISH:
            raise InvalidArgument(f"publish: got {self.publish!r}, expected True, False, 'last' or 'best'")
        if self.on_nan not in _NAN:
            raise InvalidArgument(f"on_nan: got {self.on_nan!r}, expected 'stop' or 'continue'")
        if self.monitor_mode not in (None, "min", "max"):
            raise InvalidArgument(f"monitor_mode: got {self.monitor_mode!r}, expected 'min' or 'max'")
        model_format(self.format)
        for name in ("publish_label", "publish_if_improved"):
            if getattr(self, name) and not self.publish:
                raise InvalidArgument(f"{name}: got {getattr(self, name)!r} with publish=False, expected none")

    def spec(self, model: str, version: int | None, label: str | None) -> TrainSpec:
        """The request, but for its data. Raises InvalidArgument for what can't travel."""
        publish, choice = _PUBLISH[self.publish]
        return TrainSpec(
            model=model_spec(model, version, label),
            compile=compile_settings(self.optimizer, self.loss, self.loss_weights, self.metrics, self.weighted_metrics),
            epochs=int(self.epochs),
            batch_size=int(self.batch_size),
            steps_per_epoch=int(self.steps_per_epoch or 0),
            shuffle=self.shuffle,
            seed=None if self.seed is None else int(self.seed),
            validation_split=self.validation_split,
            validation_batch_size=int(self.validation_batch_size or 0),
            class_weight=class_weight_json(self.class_weight),
            freeze=[self.freeze] if isinstance(self.freeze, str) else self.freeze,
            unfreeze=[self.unfreeze] if isinstance(self.unfreeze, str) else self.unfreeze,
            callbacks=callbacks_json(self.callbacks),
            publish=publish,
            publish_choice=choice,
            publish_label=self.publish_label or "",
            format=model_format(self.format),
            monitor=self.monitor or "",
            monitor_mode=self.monitor_mode or "",
            publish_if_improved=self.publish_if_improved or "",
            priority=int(self.priority),
            workers=int(self.workers),
            checkpoint_seconds=self.checkpoint_seconds,
            nan_policy=_NAN[self.on_nan],
            budget=Budget(
                seconds=self.max_seconds or 0.0,
                memory_bytes=int(self.max_memory_bytes or 0),
                disk_bytes=int(self.max_disk_bytes or 0),
            ),
            description=self.description,
        )


def train(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Sequence[Any] | None,
    settings: TrainSettings,
    version: int | None,
    label: str | None,
) -> Flow[RunFeed]:
    """The flow that starts a run: what can be checked here is checked before anything is sent."""
    settings.check()
    if settings.validation_split and validation_data is not None:
        raise InvalidArgument("validation_split and validation_data: got both, expected one of the two")
    spec = settings.spec(model, version, label)
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = training_arrays(x, y, sample_weight, validation_data, signature.inputs, signature.outputs)
    spec.data.extend(array.announcement() for array in arrays)
    feed = RunFeed()
    yield from feed.start(Upload(spec, arrays))
    return feed


def evaluate(
    signatures: Signatures,
    model: str,
    x: Any,
    y: Any,
    *,
    batch_size: int,
    sample_weight: Any,
    loss: Any,
    loss_weights: Any,
    metrics: Any,
    weighted_metrics: Any,
    description: str,
    version: int | None,
    label: str | None,
) -> Flow[Logs]:
    """The flow that evaluates, from the request to the numbers."""
    _check_at_least_one("batch_size", batch_size)
    spec = EvaluateSpec(
        model=model_spec(model, version, label),
        compile=compile_settings(None, loss, loss_weights, metrics, weighted_metrics),
        batch_size=batch_size,
        description=description,
    )
    signature = yield from fetch_signature(signatures, spec.model)
    arrays = training_arrays(x, y, sample_weight, None, signature.inputs, signature.outputs)
    spec.data.extend(array.announcement() for array in arrays)
    feed = RunFeed()
    yield from feed.start(Upload(spec, arrays))
    while (yield from feed.next_event()) is not None:
        pass
    if not isinstance(feed.outcome, RunFinished):
        raise TrainingCancelled(feed.run_id)
    return feed.outcome.logs


def _check_at_least_one(name: str, value: Any, limit: int = 2**31) -> None:
    if not (_is_whole(value) and 1 <= value < limit):
        raise InvalidArgument(f"{name}: got {value!r}, expected a whole number from 1")


def _is_number(value: Any) -> bool:
    """Whether it is a number, of Python or NumPy, and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)
