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
    checkpoint_every_epochs: int | None
    """Keep a checkpoint after every so many epochs."""
    checkpoint_every_steps: int | None
    """Keep a checkpoint after every so many steps."""
    keep_checkpoints: int | None
    """Number of the newest of these checkpoints to keep."""
    keep_best_checkpoints: int | None
    """Number of epochs, the best in `monitor`, whose checkpoints to keep."""
    from_checkpoint: str | None
    """Checkpoint to go on from: RUN/CHECKPOINT, RUN/best or RUN."""
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
    """Optimizer, as Keras serialises it: {"class_name": "Adam", "config": {"learning_rate": 0.0001}}."""
    loss: Any
    """Loss, or a list or dict of them by output."""
    loss_weights: Any
    """Weight of each output's loss."""
    metrics: Any
    """Metrics, or a list or dict of them by output."""
    weighted_metrics: Any
    """Metrics to which sample weights apply."""
    max_seconds: float | None
    """Seconds of training after which the run ends early, with its result so far."""
    max_memory_bytes: int | None
    """Memory that the run may use."""
    max_disk_bytes: int | None
    """What the run's folder may take."""
    splits: Mapping[str, float] | None
    """Shares of the rows by name, in order: {"train": 0.8, "test": 0.2}. No row is in two of them."""
    split: str | None
    """Split to use."""
    validate_on: str | None
    """Split to validate on after each epoch."""
    split_seed: int | None
    """Seed of the order in which rows are split."""


class EvaluateKeywords(TypedDict, total=False):
    """Options of `evaluate`."""

    batch_size: int
    """Rows in a step."""
    from_checkpoint: str | None
    """Checkpoint to go on from: RUN/CHECKPOINT, RUN/best or RUN."""
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
    splits: Mapping[str, float] | None
    """Shares of the rows by name, in order: {"train": 0.8, "test": 0.2}. No row is in two of them."""
    split: str | None
    """Split to use."""
    split_seed: int | None
    """Seed of the order in which rows are split."""


class OnlineKeywords(TypedDict, total=False):
    """Options of `online`."""

    publish: bool
    """Publish what isn't published yet when the session is ended."""
    publish_every_steps: int
    """Steps after each of which a version is published."""
    publish_every_seconds: float
    """Seconds after which a version is published if there were steps."""
    idle_seconds: float | None
    """Seconds without a request after which the session is interrupted."""
    replay_steps: int
    """Number of the last batches that are kept for `replay_share`."""
    replay_share: float
    """Rows of kept batches that are added to a step, as a share of its rows."""
    publish_label: str | None
    """Label to give to the new version."""
    format: str | None
    """Format of the file."""
    class_weight: Mapping[int, float] | None
    """Weight of each class: {"0": 1.0, "1": 5.0}."""
    seed: int | None
    """Seed of everything random: the order of rows, dropout."""
    freeze: str | Sequence[str]
    """Layers not to train, such as 'block1_*'."""
    unfreeze: str | Sequence[str]
    """Layers to train although `freeze` names them."""
    on_nan: str
    """What happens with a step that makes loss or weights infinite or NaN: with 'stop' it is refused."""
    checkpoint_seconds: float | None
    """Seconds between two checkpoints, from which an interrupted run goes on."""
    description: str
    """Text to keep with the run."""
    optimizer: Any
    """Optimizer, as Keras serialises it: {"class_name": "Adam", "config": {"learning_rate": 0.0001}}."""
    loss: Any
    """Loss, or a list or dict of them by output."""
    loss_weights: Any
    """Weight of each output's loss."""
    metrics: Any
    """Metrics, or a list or dict of them by output."""
    weighted_metrics: Any
    """Metrics to which sample weights apply."""
    max_seconds: float | None
    """Seconds of training after which the run ends early, with its result so far."""
    max_memory_bytes: int | None
    """Memory that the run may use."""
    max_disk_bytes: int | None
    """What the run's folder may take."""
