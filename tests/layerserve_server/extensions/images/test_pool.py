"""The processes that decode images: turns of callers, limits, and what happens when one ends."""

from __future__ import annotations

import io
import queue
import threading
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_files import encoded
from layerserve.images.options import ImageOptions
from layerserve.values.tensor_spec import TensorSpec
from layerserve_server.errors import BusyError, CallCancelledError, InvalidTensorError, UnavailableError
from layerserve_server.extensions.images import pool as module
from layerserve_server.extensions.images.image_input import Rows
from layerserve_server.extensions.images.pool import ImagePool, Images
from layerserve_server.extensions.images.worker import described
from layerserve_server.jobs.channel import JobDiedError
from layerserve_server.jobs.jobs import Jobs
from PIL import Image

SHAPE = (4, 4, 3)
INPUT = described(TensorSpec("x", (None, *SHAPE), "float32"), ImageOptions())


class Batch:
    """Images of a caller, and what has become of them."""

    def __init__(self, images: list[bytes], caller: str = "") -> None:
        self.rows = Rows("input 'x'", SHAPE, np.dtype(np.float32), len(images), 1 << 20)
        self.over = threading.Event()
        self.error: Exception | None = None
        self.images = Images(INPUT, "input 'x'", images, caller, self.rows.put, self._end)

    def _end(self, error: Exception | None) -> None:
        self.error = error
        self.over.set()

    def outcome(self) -> Any:
        assert self.over.wait(60)
        return self.error or self.rows.all()


class Channels:
    """Stands for processes: each image waits until its reply is put. Counts the processes."""

    def __init__(self) -> None:
        self.started = 0
        self.taken: queue.Queue[bytes] = queue.Queue()
        self.replies: dict[bytes, queue.Queue[Any]] = {}

    @contextmanager
    def connection(self, *arguments: Any) -> Any:
        self.started += 1
        yield Channel(self)

    def reply(self, image: bytes, reply: Any) -> None:
        self.replies.setdefault(image, queue.Queue()).put(reply)

    def take(self) -> bytes:
        return self.taken.get(timeout=60)


class Channel:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def send(self, message: Any) -> None:
        pass

    def send_bytes(self, data: bytes) -> None:
        self._image = data

    def receive(self) -> Any:
        waiting = self._channels.replies.setdefault(self._image, queue.Queue())
        self._channels.taken.put(self._image)
        reply = waiting.get(timeout=60)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def read_into(self, place: memoryview) -> None:
        place[:] = bytes(len(place))


GOOD = {"shape": SHAPE}


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def pool_of(counts):
    pools = []

    def make(jobs: Any, workers: int = 2, seconds: float = 60) -> ImagePool:
        pools.append(
            ImagePool(
                jobs,
                lambda outcome, number: counts.update({outcome: number}),
                workers=workers,
                seconds=seconds,
                max_pixels=10**8,
            )
        )
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def jobs():
    jobs = Jobs(modules=["layerserve_server.extensions.images.worker"])
    yield jobs
    jobs.close()


def test_a_caller_leaves_a_process_to_others(pool_of):
    channels = Channels()
    pool = pool_of(channels, workers=3)
    many, one = Batch([b"a0", b"a1", b"a2", b"a3"], "a"), Batch([b"b0"], "b")
    pool.add(many.images)
    assert {channels.take(), channels.take()} == {b"a0", b"a1"}
    pool.add(one.images)
    assert channels.take() == b"b0"
    for image in (b"a0", b"a1", b"a2", b"a3", b"b0"):
        channels.reply(image, GOOD)
    assert (many.outcome().shape, one.outcome().shape) == ((4, *SHAPE), (1, *SHAPE))


def test_the_caller_is_next_whose_images_have_taken_the_least_time(pool_of, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    channels = Channels()
    pool = pool_of(channels, workers=1)
    slow, quick = Batch([b"a0", b"a1", b"a2"], "a"), Batch([b"b0", b"b1", b"b2"], "b")
    pool.add(slow.images)
    order = [channels.take()]
    pool.add(quick.images)
    for _ in range(6):
        clock[0] += 5.0 if order[-1].startswith(b"a") else 1.0
        channels.reply(order[-1], GOOD)
        if len(order) < 6:
            order.append(channels.take())
    assert order == [b"a0", b"b0", b"b1", b"b2", b"a1", b"a2"]
    assert [batch.outcome().shape[0] for batch in (slow, quick)] == [3, 3]


def test_what_nobody_waits_for_is_not_decoded(pool_of, counts):
    channels = Channels()
    pool = pool_of(channels, workers=1)
    gone, later = Batch([b"a0", b"a1", b"a2"]), Batch([b"b0"])
    pool.add(gone.images)
    assert channels.take() == b"a0"
    pool.add(later.images)
    gone.images.cancel()
    assert isinstance(gone.outcome(), CallCancelledError)
    channels.reply(b"a0", GOOD)
    assert channels.take() == b"b0"
    channels.reply(b"b0", GOOD)
    assert later.outcome().shape == (1, *SHAPE)
    assert counts == {"decoded": 2, "dropped": 2}


@pytest.mark.parametrize(
    ("reply", "outcome", "text"),
    [
        (TimeoutError(), "slow", "row 1: got an image that isn't decoded in 60 seconds (setting 'image_seconds')"),
        (JobDiedError(9, late=False), "failed", "row 1: the process that decodes it has ended"),
        (OSError("gone"), "failed", "row 1: the process that decodes it has ended"),
        ({"shape": [2, 2, 3]}, "failed", "row 1: the process that decodes it has ended"),
        ({}, "failed", "row 1: the process that decodes it has ended"),
        ({"reason": "damaged", "text": "got less"}, "damaged", "input 'x', row 1: got less"),
    ],
)
def test_an_image_that_ends_its_process_fails_its_request_only(pool_of, counts, reply, outcome, text):
    channels = Channels()
    pool = pool_of(channels, workers=1)
    bad, good = Batch([b"a"]), Batch([b"b"])
    channels.reply(b"a", reply)
    channels.reply(b"b", GOOD)
    pool.add(bad.images)
    error = bad.outcome()
    pool.add(good.images)
    assert good.outcome().shape == (1, *SHAPE)
    assert (type(error), text in str(error)) == (InvalidTensorError, True)
    assert counts == {outcome: 1, "decoded": 1}
    assert channels.started == (1 if outcome == "damaged" else 2)


def test_too_many_images_are_refused(pool_of, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    channels = Channels()
    pool = pool_of(channels, workers=1)
    batches = [Batch([b"a"]), Batch([b"b"]), Batch([b"c"])]
    pool.add(batches[0].images)
    channels.take()
    for batch in batches[1:]:
        pool.add(batch.images)
    with pytest.raises(BusyError, match="2 images wait to be decoded"):
        pool.add(Batch([b"d"]).images)
    for image in (b"a", b"b", b"c"):
        channels.reply(image, GOOD)
    assert [batch.outcome().shape[0] for batch in batches] == [1, 1, 1]


def test_what_waits_when_the_server_stops_is_refused(pool_of):
    channels = Channels()
    pool = pool_of(channels, workers=1)
    begun, waiting = Batch([b"a"]), Batch([b"b"])
    pool.add(begun.images)
    channels.take()
    pool.add(waiting.images)
    pool.close()
    assert isinstance(waiting.outcome(), UnavailableError)
    channels.reply(b"a", GOOD)
    assert begun.outcome().shape == (1, *SHAPE)
    with pytest.raises(UnavailableError):
        pool.add(Batch([b"c"]).images)


def test_a_process_ends_after_a_time_without_images(pool_of, monkeypatch, wait_until):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    channels = Channels()
    pool = pool_of(channels)
    for image in (b"a", b"b"):
        channels.reply(image, GOOD)
        batch = Batch([image])
        pool.add(batch.images)
        assert batch.outcome().shape == (1, *SHAPE)
        wait_until(lambda: pool._threads == 0)
    assert channels.started == 2


def test_a_real_process_decodes_and_is_ended_when_it_takes_too_long(pool_of, jobs):
    data = io.BytesIO()
    Image.new("RGB", (1500, 1500)).save(data, "PNG", compress_level=1)
    fast, slow = pool_of(jobs), pool_of(jobs, seconds=1e-3)
    batch, late = Batch([encoded(), encoded(form="WEBP")]), Batch([data.getvalue()])
    fast.add(batch.images)
    slow.add(late.images)
    assert batch.outcome().shape == (2, *SHAPE)
    with pytest.raises(InvalidTensorError, match=r"isn't decoded in 0\.001 seconds"):
        raise late.outcome()
