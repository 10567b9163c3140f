# Generated from arguments.py by `make client`. Edit that file instead.

"""The options as keyword arguments: what `Unpack` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from layerserve.options.arguments import Checkpoints, Publish, Resources, Split


class TrainKeywords(TypedDict, total=False):
    """Options of `train`."""

    epochs: int
    """Passes over the data."""
    batch_size: int
    """Rows in a step."""
    steps_per_epoch: int | None
    """Steps in an epoch."""
    validation_split: float | str
    """Share of the last rows to validate with instead, or the name of a part of `split`."""
    split: Split | None
    """Rows to use."""
    shuffle: bool
    """Put rows in a new order for each epoch."""
    seed: int | None
    """Seed of everything random: the order of rows, dropout."""
    class_weight: Mapping[int, float] | None
    """Weight of each class: {"0": 1.0, "1": 5.0}."""
    callbacks: Any
    """Callbacks, such as EarlyStopping."""
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
    freeze: str | Sequence[str]
    """Layers not to train, such as 'block1_*'; with '!' before it, layers to train."""
    lora: Any
    """Train matrices of this rank in place of kernels: {"rank": 8, "alpha": 16, "layers": ["dense_*"]}."""
    precision: str | None
    """Precision of the computation; with 'auto' bfloat16, if the processor has units for it."""
    on_nan: str
    """What happens when a loss is NaN or infinite: with 'stop' the run fails."""
    monitor: str | None
    """What makes an epoch the best."""
    publish: bool | str | Publish
    """Make the result a new version of the model, by default the last weights."""
    checkpoints: Checkpoints | None
    """Which checkpoints to keep."""
    from_checkpoint: str | None
    """Checkpoint to go on from: RUN/CHECKPOINT, RUN/best or RUN."""
    resources: Resources | None
    """What the run may use."""
    description: str
    """Text to keep with the run."""
    metadata: Mapping[str, str] | None
    """Keys and values to keep with the run."""
    idempotency_key: str | None
    """Key by which a repeated call finds its run."""


class EvaluateKeywords(TypedDict, total=False):
    """Options of `evaluate`."""

    batch_size: int
    """Rows in a step."""
    split: Split | None
    """Rows to use."""
    loss: Any
    """Loss, or a list or dict of them by output."""
    loss_weights: Any
    """Weight of each output's loss."""
    metrics: Any
    """Metrics, or a list or dict of them by output."""
    weighted_metrics: Any
    """Metrics to which sample weights apply."""
    from_checkpoint: str | None
    """Checkpoint to go on from: RUN/CHECKPOINT, RUN/best or RUN."""
    description: str
    """Text to keep with the run."""
    metadata: Mapping[str, str] | None
    """Keys and values to keep with the run."""
    idempotency_key: str | None
    """Key by which a repeated call finds its run."""


class OnlineKeywords(TypedDict, total=False):
    """Options of `online`."""

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
    class_weight: Mapping[int, float] | None
    """Weight of each class: {"0": 1.0, "1": 5.0}."""
    seed: int | None
    """Seed of everything random: the order of rows, dropout."""
    freeze: str | Sequence[str]
    """Layers not to train, such as 'block1_*'; with '!' before it, layers to train."""
    on_nan: str
    """What happens with a step that makes loss or weights infinite or NaN: with 'stop' it is refused."""
    publish: bool | str | Publish
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
    checkpoints: Checkpoints | None
    """Which checkpoints to keep."""
    resources: Resources | None
    """What the run may use."""
    description: str
    """Text to keep with the run."""
