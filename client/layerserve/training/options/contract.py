"""Tables of the options of runs, as the contract has them; some are also options of evaluations.

Each option is described once. The tables give the flags of the command line, the request that the client fills, and in
the server the reading of requests, the ranges and `RunRequest`. With `arguments.py` they give the signatures and
docstrings of both clients.

To add an option, declare it here and in `proto/`, and name it in `arguments.py`, the arguments of `train`. Then
run `make client`, which writes these to `keywords.py`. The server's training implements it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerserve.models.formats import MODEL_FORMATS
from layerserve.training.options.kinds import (
    CLASS_WEIGHT,
    LORA,
    SECONDS,
    SHARE,
    SPLITS,
    Callbacks,
    Flag,
    Key,
    Log,
    Metadata,
    Patterns,
    Publication,
    Setting,
    Settings,
    Size,
    Text,
    Weights,
    whole,
    words,
)
from layerserve.training.options.option import option, options_of
from layerserve.v1 import training_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of the training loop and of publication: fields of TrainSpec itself."""

    epochs: int = option(1, whole(1), "Passes over the data.", flags=["-e"])
    batch_size: int = option(32, whole(1), "Rows in a step.", unit="rows", evaluates=True, flags=["-b"], continues=True)
    steps_per_epoch: int | None = option(
        None, whole(1, 64), "Steps in an epoch.", otherwise="all of the data", continues=True
    )
    validation_split: float = option(0.0, SHARE, "Share of the last rows to validate with instead.", continues=True)
    class_weight: Mapping[int, float] | None = option(
        None, CLASS_WEIGHT, 'Weight of each class: {"0": 1.0, "1": 5.0}.', otherwise="1 for each", continues=True
    )
    shuffle: bool = option(True, Flag(), "Put rows in a new order for each epoch.", continues=True)
    seed: int | None = option(
        None, whole(0, 64), "Seed of everything random: the order of rows, dropout.", otherwise="drawn", continues=True
    )
    freeze: str | Sequence[str] = option(
        (),
        Patterns(),
        "Layers not to train, such as 'block1_*'; with '!' before it, layers to train.",
        otherwise="none",
        continues=True,
    )
    lora: Any = option(
        None,
        LORA,
        'Train matrices of this rank in place of kernels: {"rank": 8, "alpha": 16, "layers": ["dense_*"]}.',
        otherwise="whole kernels",
        continues=True,
    )
    callbacks: Any = option(None, Callbacks(), "Callbacks, such as EarlyStopping.", otherwise="none", continues=True)
    publish: bool | str = option(True, Publication(), "Make the result a new version of the model.")
    monitor: str | None = option(
        None, Log(), "What makes an epoch the best.", otherwise="val_loss, or loss", continues=True
    )
    monitor_mode: str | None = option(
        None,
        words({"min": "min", "max": "max"}),
        "Whether small or large is better.",
        otherwise="by the log",
        continues=True,
    )
    publish_if_improved: str | None = option(
        None,
        Log(),
        "Publish only what beats the version it starts from in this log, on the validation data.",
        otherwise="published in any case",
    )
    publish_label: str | None = option(None, Text(), "Label to give to the new version.", otherwise="none")
    format: str | None = option(
        None, words(MODEL_FORMATS), "Format of the file.", otherwise="the model's format", continues=True
    )
    priority: int = option(0, whole(-(2**31)), "Runs of a higher priority leave the queue first.")
    workers: int = option(
        1,
        whole(1),
        "Processes that train together, each with a part of every batch, if the server allows several.",
        continues=True,
    )
    on_nan: str = option(
        "stop",
        words({"stop": training_pb2.NAN_POLICY_STOP, "continue": training_pb2.NAN_POLICY_CONTINUE}),
        "What happens when a loss is NaN or infinite: with 'stop' the run fails.",
        field="nan_policy",
        continues=True,
    )
    precision: str | None = option(
        None,
        words(
            {
                "float32": training_pb2.PRECISION_FLOAT32,
                "mixed_bfloat16": training_pb2.PRECISION_MIXED_BFLOAT16,
                "auto": training_pb2.PRECISION_AUTO,
            }
        ),
        "Precision of the computation; with 'auto' bfloat16, if the processor has units for it.",
        otherwise="the model's",
        continues=True,
    )
    checkpoint_seconds: float | None = option(
        None,
        SECONDS,
        "Seconds between two checkpoints, from which an interrupted run goes on.",
        unit="seconds",
        otherwise="the server's",
    )
    checkpoint_every_epochs: int | None = option(
        None,
        whole(1),
        "Keep a checkpoint after every so many epochs.",
        unit="epochs",
        otherwise="none",
        field="checkpoints.every_epochs",
    )
    checkpoint_every_steps: int | None = option(
        None,
        whole(1, 64),
        "Keep a checkpoint after every so many steps.",
        unit="steps",
        otherwise="none",
        field="checkpoints.every_steps",
    )
    keep_checkpoints: int | None = option(
        None,
        whole(1),
        "Number of the newest of these checkpoints to keep.",
        otherwise="all",
        field="checkpoints.keep",
    )
    keep_best_checkpoints: int | None = option(
        None,
        whole(1),
        "Number of epochs, the best in `monitor`, whose checkpoints to keep.",
        otherwise="none",
        field="checkpoints.keep_best",
    )
    from_checkpoint: str | None = option(
        None,
        Text(),
        "Checkpoint to go on from: RUN/CHECKPOINT, RUN/best or RUN.",
        otherwise="none: from a version",
        evaluates=True,
    )
    description: str = option("", Text(), "Text to keep with the run.", evaluates=True)
    metadata: Mapping[str, str] | None = option(
        None, Metadata(), "Keys and values to keep with the run.", otherwise="none", evaluates=True
    )
    idempotency_key: str | None = option(
        None, Key(), "Key by which a repeated call finds its run.", otherwise="drawn for each call", evaluates=True
    )
    expected_base_version: int | None = option(
        None,
        whole(1, 64),
        "Version that must still be the newest when the result is published.",
        otherwise="published in any case",
    )
    on_conflict: str = option(
        "refuse",
        words({"refuse": training_pb2.CONFLICT_POLICY_REFUSE, "rebase": training_pb2.CONFLICT_POLICY_REBASE}),
        "What happens when another version is the newest: with 'rebase' the result is published if it is better.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Arguments of Keras's `compile`: fields of CompileSettings."""

    optimizer: Any = option(
        None,
        Setting(),
        'Optimizer, as Keras serialises it: {"class_name": "Adam", "config": {"learning_rate": 0.0001}}.',
        otherwise="the file's",
    )
    loss: Any = option(
        None, Setting(), "Loss, or a list or dict of them by output.", otherwise="the file's", evaluates=True
    )
    loss_weights: Any = option(None, Weights(), "Weight of each output's loss.", otherwise="the file's", evaluates=True)
    metrics: Any = option(
        None,
        Settings(),
        "Metrics, or a list or dict of them by output.",
        otherwise="the file's",
        evaluates=True,
    )
    weighted_metrics: Any = option(
        None, Settings(), "Metrics to which sample weights apply.", otherwise="the file's", evaluates=True
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on the resources of a run, in addition to the server's: fields of the Budget message."""

    max_seconds: float | None = option(
        None,
        SECONDS,
        "Seconds of training after which the run ends early, with its result so far.",
        unit="seconds",
        otherwise="no limit",
        field="seconds",
    )
    max_memory_bytes: int | None = option(
        None,
        Size(),
        "Memory that the run may use.",
        unit="bytes",
        otherwise="no limit",
        field="memory_bytes",
    )
    max_disk_bytes: int | None = option(
        None,
        Size(),
        "What the run's folder may take.",
        unit="bytes",
        otherwise="no limit",
        field="disk_bytes",
    )


@dataclass(frozen=True, slots=True)
class View:
    """Which rows of the data a run uses: fields of the DataView message."""

    splits: Mapping[str, float] | None = option(
        None,
        SPLITS,
        'Shares of the rows by name, in order: {"train": 0.8, "test": 0.2}. No row is in two of them.',
        otherwise="one of all rows",
        evaluates=True,
    )
    split: str | None = option(None, Text(), "Split to use.", otherwise="all rows", evaluates=True)
    validate_on: str | None = option(
        None, Text(), "Split to validate on after each epoch.", otherwise="none", field="validation"
    )
    split_seed: int | None = option(
        None,
        whole(0, 64),
        "Seed of the order in which rows are split.",
        otherwise="the order of the data",
        field="seed",
        evaluates=True,
    )


RUN = options_of(RunOptions)
COMPILE = options_of(CompileOptions, "compile")
BUDGET = options_of(Budget, "budget")
VIEW = options_of(View, "view")
