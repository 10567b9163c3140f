"""Charts, heat maps and live numbers: exact where numbers are, and safe with odd ones."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from layerserve_server.extensions.drawings.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart
from layerserve_server.extensions.drawings.heat_maps import ANCHORS, MAX_PICTURES, ODD, heat_map
from layerserve_server.extensions.page.rates import FORGET_SECONDS, MAX_SAMPLES, MAX_VERSIONS, History
from page_facts import counts
from PIL import Image


def points(line):
    return [tuple(map(float, point.split(","))) for text in line.stretches for point in text.split()]


def test_a_line_goes_through_its_values():
    drawn = chart("loss", "epoch", [Series("loss", [1, 2, 3], [3.0, 1.0, 2.0])])
    bottom = HEIGHT - BOTTOM
    assert points(drawn.lines[0]) == [
        (LEFT, TOP), ((LEFT + WIDTH - RIGHT) / 2, bottom), (WIDTH - RIGHT, (TOP + bottom) / 2),
    ]  # fmt: skip
    assert drawn.words == "loss: loss 2 at epoch 3"
    assert [tick.text for tick in drawn.across] == ["1", "1.5", "2", "2.5", "3"]


@pytest.mark.parametrize(
    ("positions", "texts"),
    [
        ([1, 2, 3], ["1", "2", "3"]),
        ([1], ["1"]),
        ([1, 2], ["1", "2"]),
        ([0, 20_000], [f"{n:,}" for n in range(0, 20_001, 5000)]),
    ],
)
def test_epochs_are_whole_numbers(positions, texts):
    drawn = chart("loss", "epoch", [Series("loss", positions, [1.0] * len(positions))], whole=True)
    assert [tick.text for tick in drawn.across] == texts


def test_rates_are_drawn_from_zero():
    drawn = chart("rate", "time", [Series("a", [1, 2], [8.0, 10.0])], from_zero=True)
    assert [tick.text for tick in drawn.up] == ["0", "2", "4", "6", "8", "10"]
    assert points(drawn.lines[0])[1] == (WIDTH - RIGHT, TOP)


def pixels(picture):
    image = Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))
    return np.asarray(image), np.asarray(image.convert("RGB"))


def test_a_heat_map_has_the_values_of_the_tensor():
    array = np.array([[0.0, 5.0, 10.0], [np.nan, np.inf, 2.5]], np.float32)
    found = heat_map(array, 0)
    assert (found.low, found.high, found.left_out) == (0.0, 10.0, 0)
    levels, colours = pixels(found.pictures[0])
    assert levels.tolist() == [[0, 127, 254], [255, 255, 63]]
    assert [tuple(colours[0, 0]), tuple(colours[0, 2]), tuple(colours[1, 0])] == [ANCHORS[0], ANCHORS[-1], ODD]


@pytest.mark.parametrize(
    ("shape", "pixels"), [((2, 3), (72, 48)), ((10, 40), (160, 40)), ((100, 90), (90, 100)), ((3000, 2000), (182, 188))]
)
def test_small_pictures_are_enlarged(shape, pixels):
    (picture,) = heat_map(np.zeros(shape), 0).pictures
    assert (picture.width, picture.height) == pixels


def test_images_are_drawn_channel_by_channel():
    array = np.arange(2 * 4 * 5 * 20).reshape(2, 4, 5, 20)
    found = heat_map(array, 1)
    assert (len(found.pictures), found.left_out) == (MAX_PICTURES, 4)
    levels, _ = pixels(found.pictures[3])
    low, high = array[1, ..., :16].min(), array[1, ..., :16].max()
    np.testing.assert_array_equal(levels, ((array[1, ..., 3] - low) / (high - low) * 254).astype(np.uint8))
    assert found.pictures[3].label == "row 1, channel 3"
    # A row that isn't there is the last one.
    assert heat_map(array, 99).pictures[0].label == "row 1, channel 0"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_rates_are_differences():
    clock = Clock()
    history = History(clock)
    assert history.take("m", 1, counts(100, 1000, 10, 5.0)).rates is None
    clock.now += 2
    live = history.take("m", 1, counts(110, 1040, 15, 5.5, failed=4, queued=0.1, computed=0.25))
    assert (live.rates.requests, live.rates.failed, live.rates.rows, live.rates.batch) == (5, 2, 20, 8)
    assert live.rates.latency == pytest.approx(0.05)
    assert (live.rates.queued, live.rates.computed) == pytest.approx((0.01, 0.025))
    assert (live.version, live.requests, live.failed) == (1, 110, 4)
    lasts = {chart.title: [(line.name, line.last) for line in chart.lines] for chart in live.charts}
    assert lasts == {
        "Requests per second": [("answered", 5), ("failed", 2)],
        "Mean latency, ms": [
            ("whole", pytest.approx(50)),
            ("in queue", pytest.approx(10)),
            ("computing", pytest.approx(25)),
        ],
        "Mean rows in a batch": [("rows", 8)],
    }
    # Nothing happened since: no division by zero, and old times leave the mean.
    clock.now += 11
    idle = history.take("m", 1, counts(110, 1040, 15, 5.5, failed=4))
    assert idle.rates is None
    clock.now += 1
    assert history.take("m", 1, counts(110, 1040, 15, 5.5, failed=4)).rates.requests == 0


def test_samples_begin_anew_and_are_bounded():
    clock = Clock()
    history = History(clock)
    history.take("m", 1, counts(100))
    clock.now += 1
    assert history.take("m", 1, counts(5)).rates is None
    clock.now += FORGET_SECONDS + 1
    assert history.take("m", 1, counts(50)).rates is None
    for _ in range(2 * MAX_SAMPLES):
        clock.now += 0.1
        history.take("m", 1, counts(60))
    assert len(history._samples["m", 1]) <= 2 * MAX_SAMPLES * 0.1 + 2
    for number in range(MAX_VERSIONS + 10):
        history.take("m", number, counts(1))
    assert len(history._samples) == MAX_VERSIONS
