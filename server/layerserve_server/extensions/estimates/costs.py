"""Time, memory and disk space of a run, calculated from those of its trial. Without processes and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layergraph.training.row_groups import HELD_BYTES

from layerserve_server.extensions.estimates.random_rows import trial_request
from layerserve_server.extensions.estimates.steps import Steps, rows_of
from layerserve_server.extensions.estimates.trial_times import Lap
from layerserve_server.training.request import Role, RunRequest

#: Factor and addition, in bytes, for memory that a trial doesn't show: fragments, and the history of many epochs.
MEMORY_FACTOR, MEMORY_BYTES = 1.1, 48 << 20
#: Memory per row for the orders of rows, in bytes: the present and the next one, and the one that is being drawn.
ORDER_BYTES = 24
#: Factor and addition for disk space, in bytes.
DISK_FACTOR, DISK_BYTES = 1.02, 256 << 10
#: Size of the header of an array's file, in bytes.
HEADER_BYTES = 128
#: Size of the loss of a row, in bytes.
ROW_LOSS_BYTES = 4
#: Events of steps per second: at first, for the first seconds, and later (see `process.reporting`).
EVENTS, LIVELY_SECONDS, LATER_EVENTS = 10.0, 120.0, 1.0
#: Share of the steps' times, of the longest, that isn't counted: other processes have interrupted them.
INTERRUPTED = 0.05
#: Time until the server has noticed that a process has ended, and has taken its result, in seconds.
NOTICED_SECONDS = 0.08


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial has shown. Times are in seconds, sizes in bytes. `cache` is that of outputs of frozen layers.

    `start` is the time until training begins, `finish` the time from its end to that of the process. `memory` is that
    of all processes together. `event` is the size of an event, with line and logs.
    """

    laps: Sequence[Lap]
    start: float
    finish: float
    memory: int
    checkpoint: int
    best: int
    result: int
    cache: int
    largest_file: int
    event: int
    trainable: int
    non_trainable: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of a run goes, in seconds; `step` is the time of one step."""

    start: float
    steps: float
    validation: float
    checkpoints: float
    result: float
    step: float

    @property
    def total(self) -> float:
        """Time of the run, from leaving the queue to its end."""
        return self.start + self.steps + self.validation + self.checkpoints + self.result


def seconds(request: RunRequest, steps: Steps, trial: Trial) -> Seconds:
    """Returns the time of a run."""
    epochs = request.epochs if request.trains else 1
    first = next(lap.seconds for lap in trial.laps if "step" in lap.what)
    short = _typical(lap for lap in trial.laps[1:] if lap.what == "short step")
    begun, later = _epochs(trial.laps[1:])
    step = _typical(later) or _typical(begun) or short or first
    shorts = min(steps.short, steps.total - 1)
    rest = steps.total - 1 - shorts
    # In the first epoch, outputs of frozen layers may be computed that are kept for the others.
    slow = min(rest, steps.per_epoch - 1)
    training = first + slow * (_typical(begun) or step) + (rest - slow) * step + shorts * (short or step)
    test = _typical(lap for lap in trial.laps if lap.what == "test")
    around = _typical(lap for lap in trial.laps if lap.what == "around tests")
    validation = epochs * (2 * around + steps.validation * test) if steps.validation else 0.0
    ends = epochs * _typical(lap for lap in trial.laps if lap.what == "end of epoch")
    saving = _saving(trial.laps, {"step": step, "short step": short or step, "around tests": around})
    count = _checkpoints(request, steps, training + validation + ends)
    result = trial.finish + NOTICED_SECONDS
    if request.publish_if_improved:
        # Both versions are evaluated, in the trial on fewer rows.
        tried = sum(lap.what == "test" for lap in trial.laps) / max(
            1, sum(lap.what == "end of epoch" for lap in trial.laps)
        )
        result += 2 * max(0.0, steps.validation - tried) * test
    return Seconds(trial.start, training + ends, validation, count * saving, result, step)


def _epochs(laps: Sequence[Lap]) -> tuple[list[Lap], list[Lap]]:
    """Returns the whole steps of the first epoch, and those of the second one."""
    end = next((index for index, lap in enumerate(laps) if lap.what == "end of epoch"), len(laps))
    first, second = ([lap for lap in part if lap.what == "step"] for part in (laps[:end], laps[end:]))
    return first, second


def _typical(laps: Iterable[Lap]) -> float:
    """Returns the mean time of laps without the longest ones, and without those with a checkpoint; 0 for none."""
    times = sorted(lap.seconds for lap in laps if not lap.saved)
    kept = times[: len(times) - int(INTERRUPTED * len(times))]
    return sum(kept) / len(kept) if kept else 0.0


def _count(laps: Iterable[Lap], what: str) -> int:
    return sum(lap.what == what for lap in laps)


def _saving(laps: Sequence[Lap], typical: dict[str, float]) -> float:
    """Returns the time to write a checkpoint."""
    return max([lap.seconds - typical.get(lap.what, 0.0) for lap in laps if lap.saved], default=0.0)


def _checkpoints(request: RunRequest, steps: Steps, seconds: float) -> int:
    """Returns how many checkpoints are written in this time of training, in seconds."""
    if not request.trains:
        return 0
    if not request.checkpoint_seconds:
        return steps.total
    return min(steps.total, int(seconds / request.checkpoint_seconds))


def memory(request: RunRequest, steps: Steps, trial: Trial) -> int:
    """Returns the maximum memory of a run's processes together, in bytes, without mapped files."""
    rows = (steps.rows + steps.validation_rows) * ORDER_BYTES
    grouped = sum(array.held_bytes for array in request.data if array.file is not None and array.file.is_parquet)
    # Row groups of training and of validation. Large ones take more.
    held = min(grouped, 2 * HELD_BYTES)
    return int(MEMORY_FACTOR * trial.memory) + request.workers * (MEMORY_BYTES + rows) + held


def disk(request: RunRequest, steps: Steps, trial: Trial, base: int, time: float) -> int:
    """Returns the maximum size of a run's folder, in bytes. `base` is that of the model's files, `time` in seconds."""
    epochs = request.epochs if request.trains else 1
    data = request.kept_bytes + HEADER_BYTES * len(request.data)
    if request.sample_losses:
        # One array for all outputs together, and one for each of several; twice while they are joined into one file.
        arrays = 1 + sum(array.role is Role.Y for array in request.data)
        data += 2 * arrays * (ROW_LOSS_BYTES * steps.rows + HEADER_BYTES)
    # A checkpoint, and the best epoch's model, exist twice while they are replaced. A result that is the best epoch's
    # model is a link to it.
    models = 2 * trial.checkpoint + max(2 * trial.best, trial.result)
    lively = EVENTS * LIVELY_SECONDS + LATER_EVENTS * 2 * time
    lines = min(steps.total + steps.validation, lively) + 2 * epochs
    tried = trial_request(request)
    models += _kept(request, steps) * trial.checkpoint
    kept = trial.cache * (steps.rows + steps.validation_rows) / sum(rows_of(tried))
    files = _files(epochs, steps, trial) + lines * trial.event
    return int(DISK_FACTOR * (data + base + models + kept + files)) + DISK_BYTES


def _kept(request: RunRequest, steps: Steps) -> int:
    """Returns the maximum number of checkpoints that a run keeps, with one that is about to be removed."""
    made = steps.total // request.checkpoint_every_steps if request.checkpoint_every_steps else 0
    made += request.epochs // request.checkpoint_every_epochs if request.checkpoint_every_epochs else 0
    newest = min(made, request.keep_checkpoints + 1) if request.keep_checkpoints else made
    return newest + (request.keep_best_checkpoints + 1 if request.keep_best_checkpoints else 0)


def _files(epochs: int, steps: Steps, trial: Trial) -> float:
    """Returns the maximum size of the callbacks' files, in bytes: what they grow by in a step, and in an epoch."""
    if not trial.largest_file:
        return 0.0
    made = [lap for lap in trial.laps if "step" in lap.what]
    by_step = _growth(made[1:] or made)
    tried = max(1, _count(trial.laps, "end of epoch"))
    others = [lap for lap in trial.laps if "step" not in lap.what]
    # The last epoch's: the first one also creates the files.
    by_epoch = sum(max(0, lap.bytes) for lap in others[-(len(others) // tried) :]) if others else 0
    grown = sum(lap.bytes for lap in trial.laps)
    more = max(0, steps.total - len(made)) * by_step + max(0, epochs - tried) * by_epoch
    # One more of the largest, for a file that is replaced.
    return grown + more + trial.largest_file


def _growth(laps: Sequence[Lap]) -> float:
    return sum(max(0, lap.bytes) for lap in laps) / len(laps) if laps else 0.0
