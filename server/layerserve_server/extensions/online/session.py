"""A session in its process: the model, its checkpoint, the log of later steps, and the replies to the last ones."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from layergraph.functional.strings import Strings
from layergraph.models.model import Model
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.stepwise import Stepwise
from layerserve.training.options.online import OnlineOptions
from layerserve.values import tensors

from layerserve_server.errors import InvalidRequestError, NotTrainableError
from layerserve_server.extensions.online import publications
from layerserve_server.extensions.online.frames import Frame, FrameArray
from layerserve_server.extensions.online.replay_buffer import Arrays, ReplayBuffer
from layerserve_server.extensions.online.step_log import StepLog
from layerserve_server.records import checked
from layerserve_server.training.model import result_format, save_result
from layerserve_server.training.process.reporting import numbers
from layerserve_server.training.request import Role, RunRequest
from layerserve_server.training.run_folder.layout import BASE, CHECKPOINTS, OF_KIND

#: Folder of the steps since the last checkpoint, in the run's folder.
STEPS = f"{OF_KIND}/steps"
#: Number of the last steps whose replies are kept, for a client that was cut off before it got them.
KEPT_REPLIES = 256
#: Number and size in bytes of the steps after which a checkpoint is written, however young the last one is.
MAX_STEPS = 10_000
MAX_BYTES = 256 << 20
#: What of a request is the step itself.
STEP_FIELDS = ("number", "learning_rate")


class Session:
    """Carries out the requests of a session. `start` must be called first."""

    def __init__(self, folder: Path, request: RunRequest, model: Model) -> None:
        """`model` is prepared for the request. Raises TypeError or ValueError if the options are damaged."""
        self._folder = folder
        self._request = request
        self.options = checked(OnlineOptions(**request.kind_options))
        self._model = model
        self._steps = Stepwise(
            model,
            seed=request.seed,
            class_weight=dict(request.class_weight) if request.class_weight else None,
            on_nan=request.on_nan,
        )
        self._rehearsal = ReplayBuffer(request.seed, self.options.replay_steps, self.options.replay_share)
        self._checkpoints = Checkpoints(folder / CHECKPOINTS)
        self._log = StepLog(folder / STEPS)
        #: Number, digest and logs of the last steps.
        self._replies: deque[tuple[int, int, Mapping[str, float]]] = deque(maxlen=KEPT_REPLIES)
        self._saved_at = self._published_at = time.monotonic()
        #: Why the last version that was due isn't published; empty if it is.
        self.left_out = ""

    @property
    def step(self) -> int:
        """Number of steps so far."""
        return self._steps.step

    @property
    def logs(self) -> Mapping[str, float]:
        """Logs of the last step; empty before the first."""
        return self._replies[-1][2] if self._replies else {}

    @property
    def specs(self) -> Mapping[str, Any]:
        """The model's inputs and outputs: names, dtypes and shapes."""
        return {
            "inputs": [[spec.name, spec.dtype, spec.shape] for spec in self._model.input_specs],
            "outputs": [[spec.name, spec.dtype, spec.shape] for spec in self._model.output_specs],
        }

    @property
    def idle_seconds(self) -> float:
        """Time without a request after which the session ends."""
        assert self.options.idle_seconds is not None, "the server sets it"
        return self.options.idle_seconds

    @property
    def seconds_to_publication(self) -> float:
        """Time until a version may have to be published, in seconds."""
        if not self.options.publish_every_seconds or self.step <= publications.newest(self._folder):
            return math.inf
        return max(0.0, self._published_at + self.options.publish_every_seconds - time.monotonic())

    def start(self) -> None:
        """Goes on from the checkpoint and the log. Raises OSError, CorruptFileError or NotTrainableError."""
        state = self._checkpoints.read()
        if state is None:
            self.save()
        else:
            self._restore(state)

    def train(self, frame: Frame) -> Mapping[str, float]:
        """Applies a step that was written to the log first, and returns its logs.

        A step that was applied before isn't applied again. After an error the session is as if the step had never come.
        Raises InvalidRequestError if its number or data is wrong, LayerGraphError if the data doesn't fit, or the loss
        isn't finite, and OSError if the log can't be written.
        """
        number = int(frame.header["number"])
        # Without the request's id, which isn't the step's.
        frame = Frame({name: frame.header[name] for name in STEP_FIELDS}, frame.arrays, frame.payload)
        digest = frame.digest()
        if number <= self.step:
            return self._earlier(number, digest)
        if number != self.step + 1:
            raise InvalidRequestError(f"step {number}: expected number {self.step + 1}, after the last applied step")
        arrays = _arrays(frame)
        batch = self._prepared(self._rehearsal.mixed(number, arrays))
        self._log.append(frame)
        try:
            self._apply(frame, digest, arrays, batch)
        except Exception:
            self._roll_back()
            raise
        # The step is applied and written, whether there is room for more or not.
        with contextlib.suppress(OSError):
            # First, since a version that is due isn't written again if the checkpoint has its step.
            self.publish_if_due(stepped=True)
            if self._log.steps >= MAX_STEPS or self._log.bytes >= MAX_BYTES or self._is_old():
                self.save()
        return self.logs

    def test(self, frame: Frame) -> Mapping[str, float]:
        """Returns losses and metrics of a batch. Raises LayerGraphError if it doesn't fit."""
        return numbers(self._steps.test(self._prepared(_arrays(frame))))

    def predict(self, frame: Frame) -> Frame:
        """Returns a frame with the outputs for a batch. Raises LayerGraphError if it doesn't fit."""
        outputs = self._steps.predict({name: array for (_, name), array in _arrays(frame).items()})
        described, parts = [], []
        for name, output in zip(self._model.output_names, outputs, strict=True):
            array = _as_numpy(output)
            dtype = tensors.array_dtype(array, name)
            parts.append(tensors.encode_data(array, dtype, name))
            described.append(FrameArray("output", name, dtype, array.shape, len(parts[-1])))
        return Frame({}, described, b"".join(parts))

    def save(self) -> None:
        """Writes a checkpoint, and removes the steps that only older ones need. Raises OSError."""
        self._checkpoints.write({**self._steps.state(), "replies": list(self._replies)})
        self._saved_at = time.monotonic()
        self._begin_log()

    def publish(self) -> None:
        """Has the server publish the model, if it has steps that aren't published.

        Raises OSError, and NotTrainableError if a weight isn't finite.
        """
        self._published_at = time.monotonic()
        if self.step > publications.newest(self._folder):
            format = result_format(self._model, self._request)
            publications.request(
                self._folder,
                self.step,
                format.suffix,
                lambda path: save_result(self._model, path, self._request, format, self._folder / BASE),
            )

    def publish_if_due(self, *, stepped: bool) -> None:
        """Publishes by the number of steps, if there was one just now, or by time. Raises OSError.

        A version with a weight that isn't finite is left out, and `left_out` says why.
        """
        every = self.options.publish_every_steps
        seconds = self.options.publish_every_seconds
        if (stepped and every and self.step % every == 0) or (
            seconds and time.monotonic() - self._published_at >= seconds
        ):
            try:
                self.publish()
                self.left_out = ""
            except NotTrainableError as error:
                self.left_out = str(error)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _begin_log(self) -> None:
        first = self._rehearsal.first
        self._log.begin(self.step + 1, self.step + 1 if first is None else first)

    def _apply(self, frame: Frame, digest: int, arrays: Arrays, batch: Any) -> None:
        number = self.step + 1
        if (rate := frame.header.get("learning_rate")) is not None:
            self._steps.set_learning_rate(float(rate))
        logs = numbers(self._steps.train(batch))
        self._rehearsal.add(number, arrays)
        self._replies.append((number, digest, logs))

    def _roll_back(self) -> None:
        """Drops the step that was written last, and goes back to where the session was before it."""
        self._log.drop_last()
        state = self._checkpoints.read()
        assert state is not None, "written at the start"
        self._restore(state)
        # So that a client that sends many such steps doesn't have all others done again for each of them.
        self.save()

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint, and does the later steps again."""
        self._steps.restore(state)
        self._replies.clear()
        self._replies.extend((number, digest, logs) for number, digest, logs in state["replies"])
        self._rehearsal.clear()
        failed = 0
        for number, frame in self._log.read(0 if self.options.replay_steps else self.step + 1):
            if failed:
                raise NotTrainableError(f"step {failed} of the session's log can't be done again")
            arrays = _arrays(frame)
            if number <= state["step"]:
                self._rehearsal.add(number, arrays)
                continue
            try:
                self._apply(frame, frame.digest(), arrays, self._prepared(self._rehearsal.mixed(number, arrays)))
            except Exception:
                # The process was killed before it had dropped this step.
                failed = number
                continue
            if self.options.publish_every_steps:
                self.publish_if_due(stepped=True)
        if failed:
            self._log.drop_last()
            self._restore(state)
        if self._log.next_step != self.step + 1:
            # The process was killed between a checkpoint and its log, or the machine lost the end of the log.
            self._begin_log()

    def _prepared(self, arrays: Arrays) -> Any:
        by_role: dict[Role, dict[str, Any]] = {role: {} for role in (Role.X, Role.Y, Role.SAMPLE_WEIGHT)}
        for (role, name), array in arrays.items():
            by_role[role][name] = array
        weights = by_role[Role.SAMPLE_WEIGHT]
        return self._steps.prepare(by_role[Role.X], by_role[Role.Y], weights.get("", weights) if weights else None)

    def _earlier(self, number: int, digest: int) -> Mapping[str, float]:
        for one, kept, logs in self._replies:
            if one == number:
                if kept != digest:
                    raise InvalidRequestError(f"step {number}: was applied with other data")
                return logs
        raise InvalidRequestError(f"step {number}: was applied, {self.step - number} steps ago")

    def _is_old(self) -> bool:
        return time.monotonic() - self._saved_at >= self._request.checkpoint_seconds


def _arrays(frame: Frame) -> dict[tuple[Role, str], np.ndarray[Any, Any]]:
    """Returns the arrays of a frame. Raises InvalidTensorError if data and shape don't match."""
    return {
        (role, name): array
        for role in (Role.X, Role.Y, Role.SAMPLE_WEIGHT)
        for name, array in frame.values(role).items()
    }


def _as_numpy(output: Any) -> np.ndarray[Any, Any]:
    if isinstance(output, Strings):
        return output.values
    return np.asarray(output.float().cpu().numpy() if str(output.dtype) == "torch.bfloat16" else output.cpu().numpy())
