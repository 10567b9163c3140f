"""Time, memory and disk space of a run from those of its trial: arithmetic that can be followed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from layerserve_server.extensions.estimates import costs
from layerserve_server.extensions.estimates.costs import Trial
from layerserve_server.extensions.estimates.steps import Steps
from layerserve_server.extensions.estimates.trial_times import Lap
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest

DATA = (DataArray(Role.X, "x", "float32", (100, 10)), DataArray(Role.Y, "y", "float32", (100, 1)))
REQUEST = RunRequest("m", 1, DATA, epochs=10, batch_size=8, checkpoint_seconds=60.0, validation_split=0.2)
#: 80 rows in 10 steps, 20 rows of validation in 3.
STEPS = Steps(80, 20, 10, 3, 100, 0)
EPOCH = [Lap("step", 0.1), Lap("around tests", 0.02), Lap("test", 0.05), Lap("around tests", 0.02)]
TRIAL = Trial(
    laps=[Lap("step", 1.0), Lap("step", 0.4, saved=True), *EPOCH, Lap("end of epoch", 0.3)],
    start=2.0,
    finish=0.5,
    memory=1 << 20,
    checkpoint=3000,
    best=0,
    result=1000,
    cache=0,
    largest_file=0,
    event=100,
    trainable=10,
    non_trainable=1,
)


def test_time_is_that_of_the_first_step_and_of_the_others():
    seconds = costs.seconds(REQUEST, STEPS, TRIAL)
    assert seconds.step == pytest.approx(0.1)
    assert seconds.steps == pytest.approx(1.0 + 99 * 0.1 + 10 * 0.3)
    assert seconds.validation == pytest.approx(10 * (3 * 0.05 + 2 * 0.02))
    assert seconds.start == 2.0
    assert seconds.checkpoints == 0
    assert seconds.total == pytest.approx(seconds.start + seconds.steps + seconds.validation + seconds.result)


def test_checkpoints_are_written_at_intervals():
    assert costs.seconds(replace(REQUEST, checkpoint_seconds=4.0), STEPS, TRIAL).checkpoints == pytest.approx(3 * 0.3)
    assert costs.seconds(replace(REQUEST, checkpoint_seconds=0.0), STEPS, TRIAL).checkpoints == pytest.approx(100 * 0.3)


def test_short_steps_have_their_own_time():
    trial = replace(TRIAL, laps=[*TRIAL.laps, Lap("short step", 0.04)])
    steps = replace(STEPS, short=10)
    seconds = costs.seconds(REQUEST, steps, trial)
    assert seconds.steps == pytest.approx(1.0 + 89 * 0.1 + 10 * 0.04 + 10 * 0.3)
    only_short = replace(TRIAL, laps=[Lap("short step", 1.0), Lap("short step", 0.04)])
    assert costs.seconds(REQUEST, Steps(4, 0, 1, 0, 10, 10), only_short).steps == pytest.approx(1.0 + 9 * 0.04)


def test_interrupted_steps_do_not_count():
    laps = [Lap("step", 1.0), *[Lap("step", 0.1)] * 19, Lap("step", 30.0)]
    assert costs.seconds(REQUEST, STEPS, replace(TRIAL, laps=laps)).step == pytest.approx(0.1)


def test_a_comparison_with_the_base_evaluates_twice():
    epoch = [*EPOCH, Lap("end of epoch", 0.3)]
    for laps in (TRIAL.laps, [*TRIAL.laps, *epoch], TRIAL.laps[:-1]):
        trial = replace(TRIAL, laps=laps)
        plain = costs.seconds(REQUEST, STEPS, trial)
        compared = costs.seconds(replace(REQUEST, publish_if_improved="loss"), STEPS, trial)
        assert compared.result - plain.result == pytest.approx(2 * 2 * 0.05)


def test_disk_space_counts_what_exists_at_once():
    data = 100 * 11 * 4
    lines = 100 + 3 + 20
    least = data + 500 + 2 * 3000 + 1000 + lines * 100
    assert least <= costs.disk(REQUEST, STEPS, TRIAL, 500, 10.0) <= 1.02 * least + costs.DISK_BYTES + 300
    best = costs.disk(REQUEST, STEPS, replace(TRIAL, best=4000, result=4000), 500, 10.0)
    assert best - costs.disk(REQUEST, STEPS, TRIAL, 500, 10.0) == pytest.approx(1.02 * 7000, abs=2)


def test_outputs_of_frozen_layers_are_kept_once():
    """The first epoch computes them; the others read them."""
    first = [Lap("step", 1.0), *[Lap("step", 0.5)] * 3, Lap("end of epoch", 0.0)]
    trial = replace(TRIAL, laps=[*first, *[Lap("step", 0.1)] * 4, Lap("end of epoch", 0.0)], cache=7000)
    seconds = costs.seconds(REQUEST, STEPS, trial)
    assert seconds.steps == pytest.approx(1.0 + 9 * 0.5 + 90 * 0.1)
    assert seconds.step == pytest.approx(0.1)
    more = costs.disk(REQUEST, STEPS, trial, 500, 10.0) - costs.disk(REQUEST, STEPS, replace(trial, cache=0), 500, 10.0)
    assert more == pytest.approx(1.02 * 7000, abs=2)
    wide = replace(REQUEST, data=tuple(replace(array, shape=(100_000, *array.shape[1:])) for array in DATA))
    many = Steps(80_000, 20_000, 10_000, 2500, 100_000, 0)
    whole = costs.disk(wide, many, trial, 500, 10.0) - costs.disk(wide, many, replace(trial, cache=0), 500, 10.0)
    # 64 batches of 8 rows, and 8 of validation, are tried.
    assert whole == pytest.approx(1.02 * 7000 * 100_000 / (72 * 8), rel=1e-3)


def test_callbacks_files_grow_by_step_and_by_epoch():
    laps = [Lap("step", 0.1, 0), Lap("step", 0.1, 20), Lap("end of epoch", 0.1, 1000)]
    laps += [Lap("step", 0.1, 20), Lap("step", 0.1, 20), Lap("end of epoch", 0.1, 300)]
    trial = replace(TRIAL, laps=laps, largest_file=1000)
    more = costs.disk(REQUEST, STEPS, trial, 500, 10.0) - costs.disk(REQUEST, STEPS, TRIAL, 500, 10.0)
    written = 60 + 1300 + 96 * 20 + 8 * 300 + 1000
    assert more == pytest.approx(1.02 * written, abs=2)


def test_memory_has_a_margin_and_counts_rows_and_workers():
    one = costs.memory(REQUEST, STEPS, TRIAL)
    assert one == pytest.approx(1.1 * (1 << 20) + costs.MEMORY_BYTES + 100 * 24, abs=2)
    two = costs.memory(replace(REQUEST, workers=2), STEPS, TRIAL)
    assert two - one == costs.MEMORY_BYTES + 100 * 24


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 0),
        ({"checkpoint_every_steps": 30}, 3),
        ({"checkpoint_every_epochs": 4}, 2),
        ({"checkpoint_every_steps": 30, "checkpoint_every_epochs": 4}, 5),
        ({"checkpoint_every_epochs": 1, "keep_checkpoints": 3}, 4),
        ({"checkpoint_every_epochs": 4, "keep_checkpoints": 3}, 2),
        ({"keep_best_checkpoints": 2}, 3),
        ({"checkpoint_every_epochs": 4, "keep_best_checkpoints": 1}, 4),
    ],
    ids=str,
)
def test_checkpoints_that_are_kept_take_space_with_one_that_is_about_to_go(options, kept):
    more, less = (costs.disk(request, STEPS, TRIAL, 500, 10.0) for request in (replace(REQUEST, **options), REQUEST))
    assert more - less == pytest.approx(costs.DISK_FACTOR * kept * TRIAL.checkpoint, abs=1)


def test_an_evaluation_writes_no_checkpoints():
    evaluation = replace(REQUEST, kind=EVALUATION, checkpoint_seconds=0.0)
    laps = [Lap("step", 1.0), Lap("step", 0.1), Lap("around tests", 0.0)]
    seconds = costs.seconds(evaluation, Steps(80, 0, 10, 0, 10, 0), replace(TRIAL, laps=laps))
    assert seconds.checkpoints == seconds.validation == 0
    assert seconds.steps == pytest.approx(1.0 + 9 * 0.1)
