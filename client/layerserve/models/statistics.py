"""What models have done since the server started, and rates between two moments.

Servers only add up; rates are made here, so that a server keeps nothing for those who look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from layerserve.calls.flow import Flow, call
from layerserve.v1 import models_pb2
from layerserve.values.replies import read, read_time
from layerserve.values.tables import Table, Tabular, count_text, number_text

_COLUMNS = ("Model", "#Answered", "#Failed", "#Rows", "#Batches", "#Mean ms", "#p99 ms", "#Rows a batch", "#Waiting")


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What a model has done in `seconds`, added up over its versions and the server's processes.

    `answered` and `failed` are predictions, those of streams included; `queued` are those that waited in the queue.
    `request_seconds`, `queue_seconds` and `compute_seconds` are sums of times. `waiting_requests` and `waiting_rows`
    are in the queue at the end. `request_times` are pairs of a maximum time of a call, in seconds, and the number of
    calls that took at most so long and longer than that of the pair before.
    """

    name: str
    seconds: float
    answered: int
    failed: int
    rows: int
    batches: int
    request_seconds: float
    queue_seconds: float
    queued: int
    compute_seconds: float
    waiting_requests: int
    waiting_rows: int
    request_times: tuple[tuple[float, int], ...]

    @property
    def answered_per_second(self) -> float:
        """Predictions that were answered, a second; 0 if the time isn't known."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def failed_per_second(self) -> float:
        """Predictions that failed, a second; 0 if the time isn't known."""
        return self.failed / self.seconds if self.seconds else 0.0

    @property
    def mean_seconds(self) -> float | None:
        """Mean time of a prediction, in seconds; None without predictions."""
        return _mean(self.request_seconds, self.answered + self.failed)

    @property
    def mean_queue_seconds(self) -> float | None:
        """Mean time in the queue, in seconds; None if no prediction waited."""
        return _mean(self.queue_seconds, self.queued)

    @property
    def rows_per_batch(self) -> float | None:
        """Mean number of rows of a batch; None without batches."""
        return _mean(self.rows, self.batches)

    def seconds_at(self, share: float) -> float | None:
        """Returns the time that this share of the calls took at most, such as 0.99, in seconds; None without calls.

        It is interpolated between the bounds of `request_times`, as by Prometheus's `histogram_quantile`.
        """
        wanted, low = share * sum(count for _, count in self.request_times), 0.0
        for bound, count in self.request_times:
            if count and wanted <= count:
                return low if math.isinf(bound) else low + (bound - low) * wanted / count
            wanted -= count
            low = bound if math.isfinite(bound) else low
        return None

    def since(self, earlier: ModelStatistics, seconds: float) -> ModelStatistics:
        """Returns what was done after `earlier`. A count that became smaller began again at 0, as after a restart."""

        def grown(now: float, before: float) -> float:
            return now - before if now >= before else now

        before = dict(earlier.request_times)
        counts: dict[str, Any] = {name: int(grown(getattr(self, name), getattr(earlier, name))) for name in _COUNTS}
        sums: dict[str, Any] = {name: grown(getattr(self, name), getattr(earlier, name)) for name in _SUMS}
        times = tuple((bound, int(grown(count, before.get(bound, 0)))) for bound, count in self.request_times)
        return replace(self, seconds=seconds, request_times=times, **counts, **sums)


_COUNTS = ("answered", "failed", "rows", "batches", "queued")
_SUMS = ("request_seconds", "queue_seconds", "compute_seconds")


class Statistics(Mapping[str, ModelStatistics], Tabular):
    """Mapping of what models have done by name, counted at `time`."""

    def __init__(self, models: Sequence[ModelStatistics], time: datetime) -> None:
        self.time = time
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ModelStatistics:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return f"Statistics({count_text(len(self), 'model')} at {self.time.isoformat()})"

    def since(self, earlier: Statistics) -> Statistics:
        """Returns what was done between two moments, the earlier one given."""
        seconds = max(0.0, (self.time - earlier.time).total_seconds())
        found = [
            one.since(earlier[one.name], seconds) if one.name in earlier else replace(one, seconds=seconds)
            for one in self.values()
        ]
        return Statistics(found, self.time)

    def table(self) -> Table:
        """Returns a table with a row per model."""
        return Table(count_text(len(self), "model"), _COLUMNS, [_row(model) for model in self.values()])


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _row(model: ModelStatistics) -> tuple[str, ...]:
    return (
        model.name,
        *(f"{count:,}" for count in (model.answered, model.failed, model.rows, model.batches)),
        milliseconds_text(model.mean_seconds),
        milliseconds_text(model.seconds_at(0.99)),
        "" if model.rows_per_batch is None else number_text(model.rows_per_batch),
        str(model.waiting_requests),
    )


def milliseconds_text(seconds: float | None) -> str:
    """Formats a time as a number of milliseconds with three digits, or all before the point; empty for None."""
    if seconds is None:
        return ""
    milliseconds = seconds * 1000
    return f"{milliseconds:.3g}" if milliseconds < 999.5 else f"{milliseconds:.0f}"


def model_statistics(name: str | None) -> Flow[Statistics]:
    """Flow that returns what all models, or one, have done since the server started."""
    reply = yield from call(
        models_pb2.GetModelStatisticsRequest(name=name or ""), models_pb2.GetModelStatisticsResponse
    )
    return Statistics([_read(message) for message in reply.models], read_time(reply.time))


def _read(message: models_pb2.ModelStatistics) -> ModelStatistics:
    times = tuple((bucket.max_seconds, bucket.count) for bucket in message.request_times)
    return read(ModelStatistics, message, seconds=0.0, request_times=times)
