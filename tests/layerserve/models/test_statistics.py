"""What models have done, and rates between two moments."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from layerserve import ModelNotFound, ModelStatistics, Statistics
from layerserve.models.statistics import milliseconds_text

TIME = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOUNDS = (0.001, 0.01, math.inf)


def model(name: str = "m", answered: int = 0, times: tuple[int, ...] = (0, 0, 0), **given: float) -> ModelStatistics:
    numbers = {
        **dict.fromkeys(("seconds", "failed", "rows", "batches", "request_seconds", "queue_seconds"), 0),
        **dict.fromkeys(("queued", "compute_seconds", "waiting_requests", "waiting_rows"), 0),
        **given,
    }
    return ModelStatistics(
        name=name, answered=answered, request_times=tuple(zip(BOUNDS, times, strict=True)), **numbers
    )


def between(earlier: ModelStatistics, later: ModelStatistics, seconds: float = 2) -> ModelStatistics:
    first = Statistics([earlier], TIME)
    return Statistics([later], TIME + timedelta(seconds=seconds)).since(first)[later.name]


def test_rates_and_means_are_those_between_two_moments():
    earlier = model(answered=10, times=(10, 0, 0), request_seconds=5.0, rows=10, batches=10)
    later = model(
        answered=110, failed=100, times=(60, 90, 0), request_seconds=7.0, rows=210, batches=30, waiting_requests=4
    )
    found = between(earlier, later)
    assert (found.answered_per_second, found.failed_per_second) == (50.0, 50.0)
    assert found.mean_seconds == pytest.approx(0.01)
    assert found.rows_per_batch == 10.0
    assert found.waiting_requests == 4
    assert found.request_times == ((0.001, 50), (0.01, 90), (math.inf, 0))


def test_a_restart_begins_again_at_zero():
    found = between(model(answered=1000, times=(1000, 0, 0)), model(answered=30, times=(30, 0, 0)))
    assert found.answered_per_second == 15.0
    assert found.request_times[0] == (0.001, 30)


def test_a_model_that_is_new_counts_from_zero_and_a_clock_that_went_back_gives_no_rate():
    assert between(model("other"), model("m", answered=8)).answered_per_second == 4.0
    assert between(model(answered=1), model(answered=2), seconds=-1).answered_per_second == 0.0


@pytest.mark.parametrize(
    ("times", "share", "seconds"),
    [
        ((100, 0, 0), 0.5, 0.0005),
        ((50, 50, 0), 0.75, 0.0055),
        ((0, 0, 5), 0.99, 0.01),
        ((1, 0, 1), 0.99, 0.01),
        ((0, 0, 0), 0.5, None),
    ],
)
def test_shares_of_calls_are_interpolated_like_prometheus(times, share, seconds):
    found = model(times=times).seconds_at(share)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_without_predictions_there_are_no_means():
    idle = model()
    assert (idle.mean_seconds, idle.mean_queue_seconds, idle.rows_per_batch) == (None, None, None)
    assert "<td" in Statistics([idle], TIME)._repr_html_()


def test_both_clients_read_the_counts(client):
    earlier = client.statistics()
    client.predict("double", np.ones((2, 3)))
    with pytest.raises(ModelNotFound):
        client.predict("nope", [[1]])
    later = client.statistics()
    assert later.since(earlier)["double"].answered == 1
    assert later["two"].answered == 0
    assert list(client.statistics("double")) == ["double"]
    assert list(client.statistics("nope")) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (0.00123456, "1.23"),
        (0.9994, "999"),
        (0.9996, "1000"),
        (1.2345, "1234"),
        (59.0, "59000"),
    ],
)
def test_milliseconds_have_three_digits_and_no_exponent(seconds, text):
    assert milliseconds_text(seconds) == text
