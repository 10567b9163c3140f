"""Room before a run starts, and what it uses while it goes on."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clocks import replace_time
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import TooLargeError
from layerserve_server.system_memory import available_memory, memory_of
from layerserve_server.training import budget
from layerserve_server.training.budget import Watch, check_room, folder_bytes
from layerserve_server.training.request import EVALUATION, Budget, DataArray, Role, RunRequest

REQUEST = RunRequest("m", 1, (DataArray(Role.X, "x", "float32", (1000, 10)),))
MEMORY = Budget(max_memory_bytes=10**6)
DISK = Budget(max_disk_bytes=10**6)


def test_what_fits_may_start(tmp_path):
    check_room(replace(REQUEST, budget=Budget(max_memory_bytes=16 * 1000, max_disk_bytes=10**6)), tmp_path, 1000, 4000)


@pytest.mark.parametrize(
    ("request_", "parameters", "text"),
    [
        (
            replace(REQUEST, budget=MEMORY),
            10**5,
            "needs at least 1600000 bytes of memory, expected at most 1000000",
        ),
        (replace(REQUEST, budget=DISK), 10**5, "bytes of disk, expected at most 1000000 .its budget"),
        (REQUEST, 10**15, "free|available"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, request_, parameters, text):
    with pytest.raises(TooLargeError, match=text):
        check_room(request_, tmp_path / "not" / "there", parameters, 4000)


def test_evaluation_needs_less(tmp_path):
    check_room(replace(REQUEST, budget=MEMORY, kind=EVALUATION), tmp_path, 10**5, 4000)


def test_evaluation_needs_the_weights_and_no_file_of_them(tmp_path):
    request = replace(REQUEST, kind=EVALUATION)
    check_room(replace(request, budget=Budget(max_memory_bytes=4000, max_disk_bytes=44_000)), tmp_path, 1000, 4000)
    for short in (Budget(max_memory_bytes=3999), Budget(max_disk_bytes=43_999)):
        with pytest.raises(TooLargeError):
            check_room(replace(request, budget=short), tmp_path, 1000, 4000)


def test_the_disk_is_that_of_the_folder_or_of_what_is_there_above_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=10**9))
    for folder in (tmp_path, tmp_path / "not" / "there"):
        check_room(REQUEST, folder, 1000, 4000)
    assert asked == [tmp_path, tmp_path]


def test_mapped_data_takes_no_disk():
    array = replace(REQUEST.data[0], file=DataFile("", "x.npy"), mapped=True)
    assert (REQUEST.kept_bytes, replace(REQUEST, data=(array,)).kept_bytes) == (40_000, 0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   5 kB\n"}, 5120),
        ({"proc/meminfo": "MemAvailable: 5 kB\n", "sys/fs/cgroup/memory.max": "max"}, 5120),
        (
            {
                "proc/meminfo": "MemAvailable: 5 kB\n",
                "sys/fs/cgroup/memory.max": "3000",
                "sys/fs/cgroup/memory.current": "1000",
            },
            2000,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "500",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600",
            },
            0,
        ),
        ({}, None),
    ],
)
def test_memory_is_what_system_and_container_leave(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_a_run_that_overspends_is_found_out(tmp_path):
    (tmp_path / "data").write_bytes(bytes(2000))
    os.link(tmp_path / "data", tmp_path / "again")
    assert folder_bytes(tmp_path) == 2000
    assert memory_of(os.getpid()) > 10**6
    for limits, text in (
        (Budget(max_memory_bytes=10**6), "bytes of memory, more than its budget of 1000000"),
        (Budget(max_disk_bytes=1000), "its folder used 2000 bytes, more than its budget of 1000"),
    ):
        assert text in Watch(limits, tmp_path, 10**6).overspent(os.getpid())
    assert Watch(Budget(4, 2**40, 2**40), tmp_path, 10**6).overspent(os.getpid()) == ""
    assert Watch(Budget(), tmp_path, 10**6).overspent(None) == ""


@pytest.mark.parametrize(
    ("look", "limits", "pause"),
    [
        ("folder_bytes", Budget(max_disk_bytes=1), budget.DISK_SECONDS),
        ("memory_of", Budget(max_memory_bytes=1), budget.MEMORY_SECONDS),
    ],
)
def test_it_looks_only_when_it_is_time_to(tmp_path, monkeypatch, look, limits, pause):
    looks, clock = [], [1000.0]
    monkeypatch.setattr(budget, look, lambda what: looks.append(what) or 0)
    monkeypatch.setattr(budget, "children_of", lambda pid: [])
    replace_time(monkeypatch, budget, monotonic=lambda: clock[0])
    watch = Watch(limits, tmp_path, 10**6)
    for _ in range(10):
        watch.overspent(7)
    assert looks == [7 if look == "memory_of" else tmp_path]
    for after, count in ((pause * 0.9, 1), (pause, 2), (pause * 1.9, 2), (pause * 2, 3)):
        clock[0] = 1000.0 + after
        watch.overspent(7)
        assert len(looks) == count


def test_what_is_exactly_the_budget_is_within_it(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "folder_bytes", lambda folder: 10)
    monkeypatch.setattr(budget, "memory_of", lambda pid: 5)
    monkeypatch.setattr(budget, "children_of", lambda pid: [8])  # counts with its parent
    assert Watch(Budget(3.0, 10, 10), tmp_path, 10**6).overspent(7) == ""
    assert "more than its budget of 9" in Watch(Budget(3.0, 9, 10), tmp_path, 10**6).overspent(7)
    assert "more than its budget of 9" in Watch(Budget(3.0, 10, 9), tmp_path, 10**6).overspent(7)
    # Without a process there is no memory to look at.
    assert Watch(Budget(max_memory_bytes=1), tmp_path, 10**6).overspent(None) == ""


def test_several_workers_need_memory_each_and_the_disk_holds_the_data_and_four_files(tmp_path):
    request = replace(REQUEST, workers=2)
    needed = 40_000 + 4000 + 4 * 12 * 1000
    check_room(replace(request, budget=Budget(max_memory_bytes=32_000, max_disk_bytes=needed)), tmp_path, 1000, 4000)
    with pytest.raises(TooLargeError, match="needs at least 32000 bytes of memory, expected at most 31999"):
        check_room(replace(request, budget=Budget(max_memory_bytes=31_999)), tmp_path, 1000, 4000)
    with pytest.raises(TooLargeError, match=f"needs at least {needed} bytes of disk, expected at most {needed - 1}"):
        check_room(replace(request, budget=Budget(max_disk_bytes=needed - 1)), tmp_path, 1000, 4000)


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_what_is_free_counts_where_there_is_no_budget(tmp_path, monkeypatch, what):
    monkeypatch.setattr(budget, "_free_bytes" if what == "disk" else "available_memory", lambda *given: 15_999)
    whose = "free" if what == "disk" else "available"
    with pytest.raises(TooLargeError, match=f"bytes of {what}, expected at most 15999 .{whose}"):
        check_room(REQUEST, tmp_path, 1000, 4000)


def test_what_a_run_writes_beside_its_models_has_a_limit(tmp_path, monkeypatch):
    for folder in ("files/logs", "checkpoints", "data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "checkpoints" / "large").write_bytes(bytes(5000))
    (tmp_path / "data" / "0.npy").write_bytes(bytes(5000))
    (tmp_path / "files" / "logs" / "a").write_bytes(bytes(400))
    (tmp_path / "child.log").write_bytes(bytes(300))
    (tmp_path / "events.jsonl").write_bytes(bytes(300))
    assert Watch(Budget(), tmp_path, 1000).overspent(None) == ""
    assert "wrote 1000 bytes of files, events and output, more than 999" in Watch(Budget(), tmp_path, 999).overspent(
        None
    )
    monkeypatch.setattr(budget, "MAX_FILES", 3)
    for name in "bcd":
        (tmp_path / "files" / name).touch()
    assert Watch(Budget(), tmp_path, 1000).overspent(None) == "it wrote 4 files, more than 3"
