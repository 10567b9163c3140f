"""Estimates of the time that batches take."""

import pytest
from layerserve_server.inference.batch_times import BatchTimes


def test_nothing_is_expected_before_the_first_batch():
    assert BatchTimes().expected(8) == 0.0


def test_batches_of_about_the_same_size_count_for_each_other():
    times = BatchTimes()
    times.add(4, 0.4)
    assert times.expected(4) == pytest.approx(0.4)
    assert times.expected(7) == pytest.approx(0.7)
    times.add(5, 1.5)  # 0.3 a row, of which half counts
    assert times.expected(4) == pytest.approx(0.8)
    times.add(4, 0.0)
    assert times.expected(4) == pytest.approx(0.4)


def test_sizes_that_were_not_seen_take_what_smaller_ones_do_or_else_larger_ones():
    times = BatchTimes()
    times.add(8, 0.8)
    assert times.expected(2) == pytest.approx(0.2)
    assert times.expected(64) == pytest.approx(6.4)
    times.add(1, 1.0)
    times.add(32, 0.32)
    assert times.expected(2) == pytest.approx(2.0), "of 1 row"
    assert times.expected(16) == pytest.approx(1.6), "of 8 rows"
    assert times.expected(200) == pytest.approx(2.0), "of 32 rows"
    assert times.expected(0) == 0.0
