# Generated from training.py by `make client`. Edit that file instead.

"""The options as keyword arguments: what `Unpack` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class TrainKeywords(TypedDict, total=False):
    """Options of `train`."""

    epochs: int
    """Passes over the data."""
    batch_size: int
    """Rows in a step."""
    steps_per_epoch: int | None
    """Steps in an epoch."""
    validation_split: float
    """Share of the last rows to validate with instead."""
    validation_batch_size: int | None
    """Rows in a step of validation."""
    class_weight: Mapping[int, float] | None
    """Weight of each class: {"0": 1.0, "1": 5.0}."""
    shuffle: bool
    """Put rows in a new order for each epoch."""
    seed: int | None
    """Seed of everything random: the order of rows, dropout."""
    freeze: str | Sequence[str]
    """Layers not to train, such as 'block1_*'."""
    unfreeze: str | Sequence[str]
    """Layers to train although `freeze` names them."""
    lora: Any
    """Train matrices of this rank in place of kernels: {"rank": 8, "alpha": 16, "layers": ["dense_*"]}."""
    callbacks: Any
    """Callbacks, such as EarlyStopping."""
    publish: bool | str
    """Make the result a new version of the model."""
    monitor: str | None
    """What makes an epoch the best."""
    monitor_mode: str | None
    """Whether small or large is better."""
    publish_if_improved: str | None
    """Publish only what beats the version it starts from in this log, on the validation data."""
    publish_label: str | None
    """Label to give to the new version."""
    format: str | None
    """Format of the file."""
    priority: int
    """Runs of a higher priority leave the queue first."""
    workers: int
    """Processes that train together, each with a part of every batch, if the server allows several."""
    on_nan: str
    """What happens when a loss is NaN or infinite: with 'stop' the run fails."""
    gradient_accumulation_steps: int | None
    """Steps whose gradients are averaged for one update."""
    precision: str | None
    """Precision of the computation; with 'auto' bfloat16, if the processor has units for it."""
    cache_frozen: str
    """Keep outputs of frozen layers for all epochs, if exact; with 'on' a run that can't is refused."""
    checkpoint_seconds: float | None
    """Seconds between two checkpoints, from which an interrupted run goes on."""
    description: str
    """Text to keep with the run."""
    metadata: Mapping[str, str] | None
    """Keys and values to keep with the run."""
    idempotency_key: str | None
    """Key by which a repeated call finds its run."""
    expected_base_version: int | None
    """Version that must still be the newest when the result is published."""
    on_conflict: str
    """What happens when another version is the newest: with 'rebase' the result is published if it is better."""
    optimizer: Any
    """Optimizer, as Keras serialises it."""
    loss: Any
    """Loss, or a list or dict of them by output."""
    loss_weights: Any
    """Weight of each output's loss."""
    metrics: Any
    """Metrics, or a list or dict of them by output."""
    weighted_metrics: Any
    """Metrics to which sample weights apply."""
    max_seconds: float | None
    """Seconds that the run may train."""
    max_memory_bytes: int | None
    """Memory that the run may use."""
    max_disk_bytes: int | None
    """What the run's folder may take."""


class EvaluateKeywords(TypedDict, total=False):
    """Options of `evaluate`."""

    batch_size: int
    """Rows in a step."""
    description: str
    """Text to keep with the run."""
    metadata: Mapping[str, str] | None
    """Keys and values to keep with the run."""
    idempotency_key: str | None
    """Key by which a repeated call finds its run."""
    loss: Any
    """Loss, or a list or dict of them by output."""
    loss_weights: Any
    """Weight of each output's loss."""
    metrics: Any
    """Metrics, or a list or dict of them by output."""
    weighted_metrics: Any
    """Metrics to which sample weights apply."""
