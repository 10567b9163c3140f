"""The steps of a session on disk: each is written before it is applied, and kept until a checkpoint has it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from layerserve_server.extensions.online.frames import PREFIX, BrokenFrameError, Frame, sizes

#: Name of a file: the number of its first step. A new one begins after each checkpoint.
SEGMENT = re.compile(r"([0-9]{12})\.steps")


class StepLog:
    """Frames of steps, in files of consecutive steps.

    A write that was cut short, by a kill or a full disk, is dropped: such a step wasn't applied. Written steps survive
    a kill of the process; those since the last checkpoint may not survive a loss of power.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is made if needed. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = -1
        #: Where the last step begins in the file.
        self._last_start = 0
        #: Number and bytes of steps in the open file, and number of its first step.
        self.steps = self.bytes = self._first = 0

    @property
    def next_step(self) -> int:
        """Number of the step that is appended next; 0 if no file is open."""
        return self._first + self.steps if self._file >= 0 else 0

    def read(self, first: int) -> Iterator[tuple[int, Frame]]:
        """Yields the steps from number `first` on, and opens the last file for appending."""
        segments = self._segments()
        for start, path in segments:
            number, at = start, 0
            for frame, end in _frames(path):
                if number >= first:
                    yield number, frame
                number, at, self._last_start = number + 1, end, at
            if (start, path) == segments[-1]:
                self._open(start, at, number - start)

    def begin(self, next_step: int, keep_from: int) -> None:
        """Begins a file with step `next_step`, and removes those with steps below `keep_from` only. Raises OSError."""
        if self._file >= 0:
            os.fsync(self._file)
        self._open(next_step, 0, 0)
        segments = self._segments()
        for (_, path), (following, _) in itertools.pairwise(segments):
            if following <= keep_from:
                path.unlink(missing_ok=True)

    def append(self, frame: Frame) -> None:
        """Writes a step. Raises OSError if the disk is full; nothing of the step stays."""
        self._last_start = self.bytes
        try:
            for part in frame.encoded():
                _write_all(self._file, part)
        except OSError:
            os.ftruncate(self._file, self._last_start)
            raise
        self.bytes = os.fstat(self._file).st_size
        self.steps += 1

    def drop_last(self) -> None:
        """Removes the step that was written last; once for each."""
        os.ftruncate(self._file, self._last_start)
        self.bytes = self._last_start
        self.steps -= 1

    def close(self) -> None:
        """Closes the open file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self, first: int, size: int, steps: int) -> None:
        self.close()
        self._first = first
        self._file = os.open(self._folder / f"{first:012}.steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, size)
        self.bytes, self.steps = size, steps

    def _segments(self) -> list[tuple[int, Path]]:
        found = [(int(match[1]), path) for path in self._folder.iterdir() if (match := SEGMENT.fullmatch(path.name))]
        return sorted(found)


def _frames(path: Path) -> Iterator[tuple[Frame, int]]:
    """Yields the complete frames of a file, each with its end."""
    with path.open("rb") as file:
        while True:
            try:
                header, payload, check = sizes(file.read(PREFIX.size).ljust(PREFIX.size, b"\xff"))
                frame = Frame.decoded(file.read(header), file.read(payload), check)
            except BrokenFrameError:
                return
            yield frame, file.tell()


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
