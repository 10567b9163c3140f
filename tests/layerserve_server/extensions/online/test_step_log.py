"""The log of steps, and the frames in it: what was written whole is read again, and nothing else."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from layerserve_server.errors import InvalidTensorError
from layerserve_server.extensions.online import step_log
from layerserve_server.extensions.online.frames import MAX_HEADER, PREFIX, BrokenFrameError, Frame, FrameArray, sizes
from layerserve_server.extensions.online.step_log import StepLog
from layerserve_server.training.request import Role
from open_files import open_below
from synced import Disk


def frame(number: int) -> Frame:
    data = np.full(3, number, "float32").tobytes()
    return Frame({"number": number}, [FrameArray("x", "a", "float32", (3,), len(data))], data)


def written(folder: Path, *numbers: int) -> StepLog:
    log = StepLog(folder / "steps")
    log.begin(numbers[0], numbers[0])
    for number in numbers:
        log.append(frame(number))
    return log


def numbers(folder: Path, first: int = 0) -> list[int]:
    return [number for number, one in StepLog(folder / "steps").read(first) if one == frame(number)]


def test_steps_are_read_again(tmp_path: Path) -> None:
    log = written(tmp_path, 1, 2, 3)
    assert (log.steps, log.next_step) == (3, 4)
    assert numbers(tmp_path) == [1, 2, 3]
    assert numbers(tmp_path, 3) == [3]
    again = StepLog(tmp_path / "steps")
    list(again.read(0))
    assert (again.steps, again.bytes, again.next_step) == (3, log.bytes, 4)
    again.append(frame(4))
    assert numbers(tmp_path) == [1, 2, 3, 4]


def test_files_whose_steps_a_checkpoint_has_are_removed_unless_they_are_kept(tmp_path: Path) -> None:
    log = written(tmp_path, 1, 2)
    log.begin(3, 2)
    log.append(frame(3))
    assert numbers(tmp_path) == [1, 2, 3], "step 2 is kept, and with it its file"
    log.begin(4, 4)
    assert numbers(tmp_path) == []
    assert len(os.listdir(tmp_path / "steps")) == 1


def test_only_the_file_of_the_next_steps_is_open(tmp_path: Path) -> None:
    log = written(tmp_path, 1, 2)
    log.begin(3, 1)
    assert open_below(tmp_path) == [str(tmp_path / "steps" / "000000000003.steps")]
    log.close()
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("left", [1, PREFIX.size + 3, -1])
def test_a_step_that_was_cut_short_was_never_there(tmp_path: Path, left: int) -> None:
    log = written(tmp_path, 1, 2)
    path = next((tmp_path / "steps").iterdir())
    at = log.bytes // 2
    path.write_bytes(path.read_bytes()[: at + left if left > 0 else left])
    again = StepLog(tmp_path / "steps")
    assert [number for number, _ in again.read(0)] == [1]
    again.append(frame(2))
    assert numbers(tmp_path) == [1, 2]


def test_damage_ends_the_log(tmp_path: Path) -> None:
    log = written(tmp_path, 1, 2)
    path = next((tmp_path / "steps").iterdir())
    data = bytearray(path.read_bytes())
    data[log.bytes // 2 + PREFIX.size + 2] ^= 1
    path.write_bytes(data)
    assert numbers(tmp_path) == [1]


def test_the_last_step_can_be_dropped(tmp_path: Path) -> None:
    log = written(tmp_path, 1, 2)
    log.drop_last()
    log.append(frame(2))
    assert numbers(tmp_path) == [1, 2]
    again = StepLog(tmp_path / "steps")
    list(again.read(0))
    again.drop_last()
    assert numbers(tmp_path) == [1]


def test_nothing_stays_of_a_step_for_which_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tmp_path, 1)

    def write_half(file: int, data: bytes) -> None:
        os.write(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_log, "_write_all", write_half)
    with pytest.raises(OSError, match="No space left"):
        log.append(frame(2))
    monkeypatch.undo()
    log.append(frame(2))
    assert numbers(tmp_path) == [1, 2]


def test_a_frame_says_what_is_wrong_with_it() -> None:
    text = np.array([b"a", b"bc"], object)
    parts = b"\x01\0\0\0a\x02\0\0\0bc"
    held = Frame({"kind": "step"}, [FrameArray("x", "t", "string", (2,), len(parts))], parts)
    assert held.values(Role.X)["t"].tolist() == text.tolist()
    assert held.values(Role.Y) == {}
    short = Frame({}, [FrameArray("y", "", "float32", (2,), 3)], b"abc")
    with pytest.raises(InvalidTensorError, match=r"^y: .*got 3 bytes of data, expected 8"):
        short.values(Role.Y)
    with pytest.raises(BrokenFrameError, match="expected at most"):
        sizes(PREFIX.pack(MAX_HEADER + 1, 0, 0))
    for header in (b"{}", b"[]", b'{"arrays":[[1]]}', b"\xff"):
        with pytest.raises(BrokenFrameError):
            Frame.decoded(header, b"", _check(header))
    assert held.digest() != Frame({"kind": "step"}, held.arrays, parts.replace(b"a", b"b")).digest()


def _check(header: bytes) -> int:
    return zlib.crc32(header)


def test_a_file_that_is_full_survives_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    log = StepLog(tmp_path / "steps")
    log.begin(1, 1)
    log.append(Frame({}, [FrameArray("x", "a", "float32", (1,), 4)], bytes(4)))
    (first,) = (tmp_path / "steps").iterdir()
    log.begin(2, 1)
    assert disk.flushed_bytes(first) == first.stat().st_size > 0
