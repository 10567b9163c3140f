"""Sweeps: search spaces, flows, and information about sweeps and their trials."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from layerserve.calls.flow import Flow, Pause, call
from layerserve.errors import DataLoss, InvalidArgument, TrainingCancelled, TrainingFailed
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signatures, fetch_signature
from layerserve.training.curves import Curves, Line, Plotted
from layerserve.training.options.arguments import TRAIN
from layerserve.training.options.kinds import repeatable, whole, words
from layerserve.training.options.option import check_names, fill
from layerserve.training.requests import RunArguments, data_arrays
from layerserve.v1 import sweeps_pb2 as pb
from layerserve.v1.training_pb2 import TrainSpec
from layerserve.values.replies import read
from layerserve.values.tables import Table, Tabular, count_text, moment_text, number_text

#: How the settings of trials are chosen.
SweepMethod = Literal["random", "grid"]
SweepState = Literal["running", "finished", "failed", "cancelled", "unknown"]
TrialState = Literal["running", "finished", "failed", "cancelled", "unknown"]

_METHODS = {name.removeprefix("SWEEP_METHOD_").lower(): number for name, number in pb.SweepMethod.items() if number}
#: Time between two looks at a sweep, in seconds: at first, and at most.
LOOK_SECONDS, MAX_LOOK_SECONDS = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included, as a dimension of a search space.

    `step` is the distance of the numbers; default: any number. With `log` they are drawn by their logarithm, so that
    1e-5 to 1e-4 is as likely as 1e-3 to 1e-2. If `low`, `high` and `step` are of type int, the numbers are integers.

    Example:
        space = {"optimizer.learning_rate": Range(1e-5, 1e-2, log=True), "batch_size": [16, 32, 64]}
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def message(self) -> pb.Range:
        numbers = [number for number in (self.low, self.high, self.step) if number is not None]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise InvalidArgument(f"range: got {number!r}, expected a number")
        integer = all(isinstance(number, int) for number in numbers)
        return pb.Range(low=self.low, high=self.high, step=self.step or 0.0, log=self.log, integer=integer)


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of a sweep.

    `value` is the monitored log that counts (of the best epoch with publish="best", else of the last one), None before
    the first epoch has ended; `history` has it by epoch. `seconds` is how long its run trained.
    """

    number: int
    state: TrialState
    settings: Mapping[str, Any]
    run_id: str
    value: float | None
    history: Mapping[int, float]
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SweepInfo(Plotted):
    """Snapshot of a sweep.

    It starts from `base_version` of `model`; `version` is the published version or None, and `reason` says why there is
    none, or why the sweep failed. `best` is the number of the best trial that has finished, or None. `trials` is empty
    in lists. `owner` is the server that owns the sweep, if that isn't the one that replied.
    """

    id: str
    state: SweepState
    model: str
    base_version: int
    version: int | None
    reason: str
    method: str
    trials_total: int
    trials_ended: int
    monitor: str
    larger_is_better: bool
    best: int | None
    trials: Sequence[Trial]
    created_time: datetime | None
    ended_time: datetime | None
    seed: int
    description: str
    owner: str

    @property
    def ended(self) -> bool:
        """Whether the sweep has ended."""
        return self.state not in ("running", "unknown")

    @property
    def best_trial(self) -> Trial | None:
        """The best trial that has finished; None if there is none."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    def curves(self) -> Curves:
        """Returns the monitored log of all trials by epoch, the best one emphasized."""
        lines = []
        for trial in self.trials:
            if trial.history:
                best = trial.number == self.best
                label = f"trial {trial.number} (best)" if best else ""
                values = list(trial.history.values())
                lines.append(Line(label, list(trial.history), values, faint=not best, strong=best))
        return Curves(f"{self.model}, sweep {self.id}", "epoch", {self.monitor: lines})

    def table(self) -> Table:
        """Returns a table with a row per trial, the best first."""
        names = list(self.trials[0].settings) if self.trials else []
        columns = ("#Trial", "State", *names, f"#{self.monitor}", "#Epochs", "#Seconds", "Run")
        title = f"{self.model}: sweep {self.id}, {self.trials_ended} of {count_text(self.trials_total, 'trial')}"
        return Table(title, columns, [self._row(trial, names) for trial in sorted(self.trials, key=self._rank)])

    def _rank(self, trial: Trial) -> tuple[bool, bool, float, int]:
        value = trial.value if trial.value is not None else 0.0
        sign = -1.0 if self.larger_is_better else 1.0
        return trial.state != "finished", trial.value is None, sign * value, trial.number

    def _row(self, trial: Trial, names: Sequence[str]) -> tuple[str, ...]:
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        return (
            str(trial.number),
            f"{state} (best)" if trial.number == self.best else state,
            *(_setting_text(trial.settings[name]) for name in names),
            "" if trial.value is None else number_text(trial.value),
            str(max(trial.history, default=0)),
            number_text(trial.seconds),
            trial.run_id,
        )


class SweepList(tuple[SweepInfo, ...], Tabular):
    """A tuple of sweeps, shown as a table in notebooks."""

    __slots__ = ()

    def table(self, title: str = "") -> Table:
        """Returns a table with a row per sweep. The title is their number by default."""
        columns = ("Sweep", "Model", "#From", "Method", "State", "#Trials", "#Published", "Created", "Description")
        return Table(title or count_text(len(self), "sweep"), columns, [_sweep_row(info) for info in self])


def _sweep_row(info: SweepInfo) -> tuple[str, ...]:
    return (
        info.id,
        info.model,
        str(info.base_version),
        info.method,
        f"{info.state}: {info.reason}" if info.reason else info.state,
        f"{info.trials_ended}/{info.trials_total}",
        "" if info.version is None else str(info.version),
        moment_text(info.created_time),
        info.description,
    )


def _setting_text(value: Any) -> str:
    return number_text(value) if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def start_sweep(
    signatures: Signatures,
    given: RunArguments,
    space: Mapping[str, Sequence[Any] | Range],
    method: str,
    trials: int | None,
    parallel: int | None,
    search_seed: int | None,
) -> Flow[SweepInfo]:
    """Flow that starts a sweep."""
    check_names("sweep", TRAIN, given.options)
    train = TrainSpec(model=model_spec(given.model, given.version, given.label))
    fill(train, TRAIN, given.options)
    signature = yield from fetch_signature(signatures, train.model)
    arrays = data_arrays(signature, given, validates=True)
    for array in arrays:
        if not array.filed:
            raise InvalidArgument(
                f"{array.text}: got an array, expected data on the server, as all trials read it: a dataset, as of "
                "client.datasets.upload(x, y), or a ServerFile"
            )
    train.idempotency_key = repeatable(train.idempotency_key or None)
    train.data.extend(array.announcement() for array in arrays)
    spec = pb.SweepSpec(
        train=train,
        dimensions=[_dimension(name, values) for name, values in space.items()],
        method=words(_METHODS).encode("method", method),
        trials=0 if trials is None else whole(1).encode("trials", trials),
        parallel=0 if parallel is None else whole(1).encode("parallel", parallel),
        seed=search_seed,
    )
    reply = yield from call(pb.CreateSweepRequest(spec=spec), pb.CreateSweepResponse)
    return read_sweep(reply.sweep)


def _dimension(name: str, values: Sequence[Any] | Range) -> pb.Dimension:
    if isinstance(values, Range):
        return pb.Dimension(name=name, range=values.message())
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidArgument(f"space[{name!r}]: got {values!r}, expected a list of values or a Range")
    try:
        return pb.Dimension(name=name, values=json.dumps([_plain(value) for value in values]))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"space[{name!r}]: {error}") from error


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def get_sweep(sweep_id: str) -> Flow[SweepInfo]:
    """Flow that returns a sweep with its trials."""
    reply = yield from call(pb.GetSweepRequest(sweep_id=sweep_id), pb.GetSweepResponse)
    return read_sweep(reply.sweep)


def list_sweeps(model: str | None) -> Flow[SweepList]:
    """Flow that returns all sweeps, or those of a model."""
    reply = yield from call(pb.ListSweepsRequest(model_name=model or ""), pb.ListSweepsResponse)
    return SweepList(map(read_sweep, reply.sweeps))


def cancel_sweep(sweep_id: str) -> Flow[SweepInfo]:
    """Flow that cancels a sweep."""
    reply = yield from call(pb.CancelSweepRequest(sweep_id=sweep_id), pb.CancelSweepResponse)
    return read_sweep(reply.sweep)


def delete_sweep(sweep_id: str) -> Flow[None]:
    """Flow that deletes a sweep."""
    yield from call(pb.DeleteSweepRequest(sweep_id=sweep_id), pb.DeleteSweepResponse)


def wait_for_sweep(sweep_id: str) -> Flow[SweepInfo]:
    """Flow that waits for the end of a sweep. Raises TrainingFailed and TrainingCancelled."""
    pause = LOOK_SECONDS
    while True:
        info = yield from get_sweep(sweep_id)
        if info.state == "failed":
            raise TrainingFailed(info.id, info.reason)
        if info.state == "cancelled":
            raise TrainingCancelled(info.id)
        if info.ended:
            return info
        yield Pause(pause)
        pause = min(MAX_LOOK_SECONDS, pause * 1.2)


def read_sweep(message: pb.Sweep) -> SweepInfo:
    """Returns what a message describes."""
    return read(
        SweepInfo,
        message,
        model=message.base.name,
        base_version=message.base.version,
        version=message.published.version if message.HasField("published") else None,
        trials=tuple(map(_read_trial, message.trials)),
    )


def _read_trial(message: pb.Trial) -> Trial:
    try:
        settings = {setting.name: json.loads(setting.value) for setting in message.settings}
        history = dict(zip(message.epochs, message.history, strict=True))
    except (ValueError, RecursionError) as wrong:
        raise DataLoss(f"the server's reply: trial {message.number} is malformed: {wrong}") from None
    return read(Trial, message, settings=settings, history=history)
