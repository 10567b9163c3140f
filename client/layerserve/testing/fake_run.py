"""Training runs of the fake server: they send the events of a run without training."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerserve.errors import DataLoss, InvalidTensor
from layerserve.training.data import ROLES
from layerserve.v1 import training_pb2
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import Array, decode_data, dtype_name

_ROLE_NAMES = {role: name for name, role in ROLES.items()}


@dataclass(frozen=True)
class PlannedFailure:
    """Epoch and step at which the next run fails, and the reason."""

    reason: str
    epoch: int
    step: int
    resumable: bool = False


class FakeRun:
    """A run: its spec, the received data as {("x", "input"): array}, and the events so far."""

    def __init__(self, id: str, spec: training_pb2.TrainSpec | training_pb2.EvaluateSpec, base: ModelSpec) -> None:
        self.id = id
        self.spec = spec
        self.evaluates = isinstance(spec, training_pb2.EvaluateSpec)
        self.kind = training_pb2.RUN_KIND_EVALUATION if self.evaluates else training_pb2.RUN_KIND_TRAINING
        self.epochs = (spec.epochs or 1) if isinstance(spec, training_pb2.TrainSpec) else 1
        self.resumable = False
        self.resumed = 0
        #: Contents of the files written by callbacks, by name.
        self.files: dict[str, bytes] = {}
        self.base = base
        self.published: ModelSpec | None = None
        self.data: dict[tuple[str, str], Array] = {}
        self.chunk_sizes: list[int] = []
        self.events: list[training_pb2.TrainEvent] = []
        self.state = training_pb2.RUN_STATE_QUEUED
        self.reason = ""
        self._interrupted_epoch = 1
        self._changed = threading.Condition()
        self._cancelled = False
        self._stopped = False
        self._paused = False
        self.metadata = dict(spec.metadata)
        self.description = spec.description
        self.priority = spec.priority if isinstance(spec, training_pb2.TrainSpec) else 0
        self._parts: dict[int, bytearray] = {index: bytearray() for index in range(len(spec.data))}

    def receive(self, chunk: training_pb2.DataChunk) -> None:
        self.chunk_sizes.append(len(chunk.data))
        self._parts[chunk.array] += chunk.data

    def check(self, digest: training_pb2.DataDigest) -> None:
        """Raises DataLoss if a received array doesn't match its digest."""
        if hashlib.sha256(self._parts[digest.array]).digest() != digest.sha256:
            raise DataLoss(f"array {digest.array}: the data doesn't match its digest")

    def close_data(self) -> None:
        """Joins the chunks of each array. Raises DataLoss if rows are missing."""
        for index, array in enumerate(self.spec.data):
            if array.path or array.dataset:
                continue
            try:
                value = decode_data(bytes(self._parts[index]), dtype_name(array.dtype), array.shape, array.name)
            except InvalidTensor as error:
                raise DataLoss(f"array {array.name!r}: {error}") from None
            self.data[_ROLE_NAMES[array.role], array.name] = value

    def abandon(self, reason: str) -> None:
        """Fails the run before training starts."""
        self.state, self.reason = training_pb2.RUN_STATE_FAILED, reason
        self.tell(failed=training_pb2.RunFailed(reason=reason))

    @property
    def rows(self) -> int:
        """Number of rows of the first array; 1 if it is a file or dataset, which isn't read."""
        return int(self.spec.data[0].shape[0]) if self.spec.data[0].shape else 1

    def tell(self, **kind: Any) -> None:
        """Appends an event."""
        with self._changed:
            event = training_pb2.TrainEvent(run_id=self.id, sequence=len(self.events), **kind)
            event.time.GetCurrentTime()
            self.events.append(event)
            self._changed.notify_all()

    def pause(self, wanted: bool = True) -> None:
        """Makes `execute` pause before the next step, or not."""
        self._paused = wanted

    def stop(self) -> None:
        """Makes `execute` end early, before the next step."""
        self._stopped = True

    def resume(self) -> None:
        """Queues the run again after a pause or an interruption; `execute` then continues with the epoch."""
        with self._changed:
            last = self.events[-1]
            if last.HasField("failed"):
                last.log.text = f"interrupted: {last.failed.reason}"
            self._paused = False
            self.state, self.reason, self.resumable = training_pb2.RUN_STATE_QUEUED, "", False
            self.resumed += 1
        self.tell(queued=training_pb2.RunQueued(ahead=0))

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def watch(self, sequence: int, alive: Callable[[], bool]) -> Iterator[training_pb2.TrainEvent]:
        """Yields events from a sequence number on, including later ones, until the run has ended."""
        while True:
            with self._changed:
                # With a timeout, to release the thread of a client that has cancelled.
                while len(self.events) <= sequence and not self.ended and alive():
                    self._changed.wait(0.1)
                new = self.events[sequence:]
            yield from new
            sequence += len(new)
            if not alive() or (self.ended and not self.events[sequence:]):
                return

    @property
    def ended(self) -> bool:
        """Whether the last event ends the run."""
        return bool(self.events) and self.events[-1].WhichOneof("kind") in ("finished", "failed", "cancelled")

    def execute(
        self,
        logs: Callable[[int], dict[str, float]],
        failure: PlannedFailure | None,
        wait_until_free: Callable[[], None],
        publish: Callable[[], ModelSpec | None],
    ) -> None:
        """Executes the run. Its steps take no time; `logs` returns the logs of each epoch."""
        epochs, steps = self.epochs, math.ceil(self.rows / (self.spec.batch_size or 32))
        if self.resumed:
            self.tell(resumed=training_pb2.RunResumed(epoch=self._interrupted_epoch))
        self.state = training_pb2.RUN_STATE_RUNNING
        self.tell(started=training_pb2.RunStarted(epochs=epochs, steps_per_epoch=steps, rows=self.rows))
        for epoch in range(self._interrupted_epoch, epochs + 1):
            values = [training_pb2.LogValue(name=name, value=value) for name, value in logs(epoch).items()]
            for step in range(1, steps + 1):
                wait_until_free()
                if self._cancelled:
                    self.state = training_pb2.RUN_STATE_CANCELLED
                    self.tell(cancelled=training_pb2.RunCancelled(epoch=epoch))
                    return
                if self._paused:
                    self._interrupted_epoch = epoch
                    self.state = training_pb2.RUN_STATE_PAUSED
                    self.tell(paused=training_pb2.RunPaused(epoch=epoch, step=step - 1))
                    return
                if self._stopped:
                    break
                if failure and (failure.epoch, failure.step) == (epoch, step):
                    self._interrupted_epoch = epoch
                    self.state, self.reason = training_pb2.RUN_STATE_FAILED, failure.reason
                    self.resumable = failure.resumable
                    self.tell(
                        failed=training_pb2.RunFailed(
                            reason=failure.reason, epoch=epoch, step=step, resumable=failure.resumable
                        )
                    )
                    return
                self.tell(
                    step=training_pb2.StepProgress(
                        epoch=epoch, step=step, steps_per_epoch=steps, logs=values, epochs=epochs
                    )
                )
            if self._stopped:
                break
            if not self.evaluates:
                self.tell(epoch=training_pb2.EpochEnd(epoch=epoch, logs=values, seconds=0.5, epochs=epochs))
        if self.evaluates and self.spec.sample_losses:  # type: ignore[union-attr]
            # The loss of a row is its number.
            content = io.BytesIO()
            np.savez(content, loss=np.arange(self.rows, dtype=np.float32))
            self.files["sample_losses.npz"] = content.getvalue()
        self.published = publish()
        self.state = training_pb2.RUN_STATE_FINISHED
        self.tell(finished=training_pb2.RunFinished(published=self.published, logs=values, seconds=0.5 * epochs))

    def describe(self) -> training_pb2.Run:
        with self._changed:
            ended = [event.epoch for event in self.events if event.HasField("epoch")]
            run = training_pb2.Run(
                id=self.id,
                state=self.state,
                base=self.base,
                published=self.published,
                reason=self.reason,
                epochs_done=len(ended),
                epochs=self.epochs,
                steps_per_epoch=math.ceil(self.rows / (self.spec.batch_size or 32)),
                logs=ended[-1].logs if ended else [],
                seed=self.spec.seed if isinstance(self.spec, training_pb2.TrainSpec) else 0,
                description=self.description,
                metadata=self.metadata,
                stopped=self._stopped,
                publishable=self.state == training_pb2.RUN_STATE_FINISHED and self.published is None,
                idempotency_key=self.spec.idempotency_key,
                kind=self.kind,
                resumable=self.resumable,
                resumed=self.resumed,
                priority=self.priority,
                workers=max(1, self.spec.workers) if isinstance(self.spec, training_pb2.TrainSpec) else 1,
            )
            if self.events:
                run.created_time.CopyFrom(self.events[0].time)
        return run
