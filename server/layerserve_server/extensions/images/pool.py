"""Processes that decode images. Each has a thread here, which sends it one image after the other."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from layerserve_server.errors import BusyError, CallCancelledError, InvalidTensorError, UnavailableError, safe_text
from layerserve_server.jobs.channel import Channel, JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.jobs.table import Job

logger = logging.getLogger(__name__)

#: The niceness is that of reading model files: requests come first.
DECODE_IMAGES = Job("layerserve_server.extensions.images.worker:decode_images", "decoding images", False, 5)
#: Time without an image after which a process ends, in seconds.
IDLE_SECONDS = 60.0
#: Maximum number of images that wait. More aren't decoded in a time for which callers wait.
MAX_WAITING = 1 << 16
#: Number of callers whose use is remembered.
MAX_CALLERS = 4096
#: Memory of a process, in bytes, and in bytes per pixel of the largest image: Pillow has 4 for each pixel, again for
#: each conversion, and the coefficients of a progressive JPEG.
MEMORY_BYTES, PIXEL_BYTES = 256 << 20, 28
#: A limit of processor time for a process that stays, in seconds. The time for an image is limited here.
FOREVER_SECONDS = 1e9


class Images:
    """The images of a request for an input."""

    def __init__(
        self,
        input: str,
        label: str,
        elements: Sequence[bytes],
        caller: object,
        put: Callable[[int, Sequence[int]], memoryview],
        done: Callable[[Exception | None], None],
    ) -> None:
        """`input` is what `worker.described` gives, `label` the input in error texts.

        `put` returns where the bytes of a row of some shape belong. `done` is called once, with the first error.
        """
        self.input = input
        self.caller = caller
        self.put = put
        self.elements = elements
        self._label = label
        self._done = done
        self._left = len(elements)
        self._lock = threading.Lock()
        #: Whether `done` was called.
        self.ended = False

    def label(self, index: int) -> str:
        """Returns an image in error texts."""
        return f"{self._label}, row {index + 1}"

    def decoded(self) -> None:
        """Counts a decoded image."""
        with self._lock:
            self._left -= 1
            left = self._left
        if not left:
            self.end(None)

    def end(self, error: Exception | None) -> None:
        """Calls `done`, unless it was called."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
        self._done(error)

    def cancel(self) -> None:
        """Drops the images that aren't being decoded yet."""
        self.end(CallCancelledError("the client cancelled the call"))


class ImagePool:
    """Decodes images of many requests, so that each caller gets an equal share of the processes' time. Thread-safe.

    The next image is that of the caller whose images have taken the least time, and a caller never has all processes if
    there are several: images that take long delay others of their caller most.
    """

    def __init__(
        self, jobs: Jobs, count: Callable[[str, int], None], *, workers: int, seconds: float, max_pixels: int
    ) -> None:
        """`count` is called with the outcome of images and their number, `seconds` is the maximum time for one."""
        self._jobs = jobs
        self._count = count
        self._workers = workers
        self._seconds = seconds
        self._limits = JobLimits(FOREVER_SECONDS, MEMORY_BYTES + PIXEL_BYTES * max_pixels, wall_seconds=FOREVER_SECONDS)
        self._changed = threading.Condition()
        #: Requests with images that wait, each with the index of the next, by caller.
        self._waiting: dict[object, deque[tuple[Images, int]]] = {}
        #: When the next image of a caller would begin if each had a process of its own (start-time fair queueing),
        #: and the start of the last image that was taken.
        self._starts: OrderedDict[object, float] = OrderedDict()
        self._now = 0.0
        #: Number of images that wait, and of those that are being decoded, by caller.
        self._count_waiting = 0
        self._busy: Counter[object] = Counter()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def add(self, images: Images) -> None:
        """Decodes images. Raises BusyError if too many wait."""
        count = len(images.elements)
        if not count:
            images.end(None)
            return
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is stopping")
            if self._count_waiting and self._count_waiting + count > MAX_WAITING:
                raise BusyError(f"{self._count_waiting} images wait to be decoded", retry_after=1.0)
            self._waiting.setdefault(images.caller, deque()).append((images, 0))
            self._count_waiting += count
            started = min(count - self._idle, self._workers - self._threads)
            for _ in range(started):
                self._threads += 1
                threading.Thread(target=self._work, name="images", daemon=True).start()
            self._changed.notify(count)

    def close(self) -> None:
        """Ends the processes. What waits isn't decoded any more."""
        with self._changed:
            self._closed = True
            left = [images for of_caller in self._waiting.values() for images, _ in of_caller]
            self._waiting.clear()
            self._changed.notify_all()
        for images in left:
            images.end(UnavailableError("the server is stopping"))

    def _work(self) -> None:
        process = _Process(self._jobs, self._limits, self._seconds)
        try:
            while (taken := self._take()) is not None:
                images, index = taken
                began = time.monotonic()
                try:
                    self._decode(process, images, index)
                except Exception as error:
                    # Whatever happens to an image, the thread goes on.
                    logger.exception("an image can't be decoded")
                    images.end(error)
                with self._changed:
                    self._used(images.caller, time.monotonic() - began)
                    self._changed.notify()
        finally:
            process.end()

    def _take(self) -> tuple[Images, int] | None:
        """Returns the next image; None if the thread should end, as it has been idle or the pool is closed."""
        with self._changed:
            self._idle += 1
            try:
                while not self._closed:
                    taken = self._next()
                    if taken is not None:
                        return taken
                    if not self._changed.wait(IDLE_SECONDS) and not self._waiting:
                        break
                self._threads -= 1
                return None
            finally:
                self._idle -= 1

    def _next(self) -> tuple[Images, int] | None:
        """Returns an image of the caller whose turn it is, of those that may have another process.

        Called with the lock held.
        """
        for caller, waiting in list(self._waiting.items()):
            while waiting and waiting[0][0].ended:
                images, index = waiting.popleft()
                dropped = len(images.elements) - index
                self._count_waiting -= dropped
                self._count("dropped", dropped)
            if not waiting:
                del self._waiting[caller]
        most = max(1, self._workers - 1)
        free = [caller for caller in self._waiting if self._busy[caller] < most]
        if not free:
            return None
        caller = min(free, key=self._start)
        self._now = self._start(caller)
        images, index = self._waiting[caller].popleft()
        if index + 1 < len(images.elements):
            self._waiting[caller].appendleft((images, index + 1))
        elif not self._waiting[caller]:
            del self._waiting[caller]
        self._count_waiting -= 1
        self._busy[caller] += 1
        return images, index

    def _start(self, caller: object) -> float:
        return max(self._now, self._starts.get(caller, 0.0))

    def _used(self, caller: object, seconds: float) -> None:
        """Notes the time that an image of a caller has taken. Called with the lock held."""
        self._starts[caller] = self._start(caller) + seconds
        self._starts.move_to_end(caller)
        if len(self._starts) > MAX_CALLERS:
            self._starts.popitem(last=False)
        self._busy[caller] -= 1
        if not self._busy[caller]:
            del self._busy[caller]

    def _decode(self, process: _Process, images: Images, index: int) -> None:
        """Decodes an image, and counts it."""
        data = images.elements[index]
        try:
            reply = process.send(images.input, data)
            if "reason" in reply:
                self._count(reply["reason"], 1)
                text = safe_text(str(reply["text"]), 500)
                images.end(InvalidTensorError(f"{images.label(index)}: {text}"))
                return
            process.receive(images.put(index, reply["shape"]))
        except InvalidTensorError as error:
            # Its bytes aren't read.
            process.end()
            self._count("bytes", 1)
            images.end(error)
        except TimeoutError:
            process.end()
            self._count("slow", 1)
            images.end(
                InvalidTensorError(
                    f"{images.label(index)}: got an image that isn't decoded in {self._seconds:g} seconds (setting "
                    "'image_seconds'), expected a smaller or simpler one"
                )
            )
        except (OSError, JobDiedError, ValueError, KeyError, TypeError) as error:
            process.end()
            self._count("failed", 1)
            logger.warning("the process that decodes images has ended", extra={"error": str(error)})
            images.end(
                InvalidTensorError(f"{images.label(index)}: the process that decodes it has ended; it may be damaged")
            )
        else:
            self._count("decoded", 1)
            images.decoded()


class _Process:
    """A process that decodes images, started when it is needed."""

    def __init__(self, jobs: Jobs, limits: JobLimits, seconds: float) -> None:
        self._jobs = jobs
        self._limits = limits
        self._seconds = seconds
        self._channel: Channel | None = None
        self._stack = ExitStack()

    def send(self, input: str, data: bytes) -> dict[str, Any]:
        """Sends an image, and returns the reply. Raises OSError and JobDiedError."""
        if self._channel is None:
            connection = self._jobs.connection(DECODE_IMAGES, {}, self._limits, self._seconds)
            self._channel = self._stack.enter_context(connection)
        self._channel.send({"input": input, "bytes": len(data)})
        self._channel.send_bytes(data)
        return self._channel.receive()

    def receive(self, place: memoryview) -> None:
        """Receives the bytes of an array. Raises OSError."""
        assert self._channel is not None
        self._channel.read_into(place)

    def end(self) -> None:
        """Ends the process. A further image starts another one."""
        self._channel = None
        self._stack.close()
