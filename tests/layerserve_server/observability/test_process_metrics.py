"""Metrics of the server's processes, from a /proc of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerserve_server.observability.process_metrics import ProcessMetrics, register_build_info
from prometheus_client import CollectorRegistry


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1000\n")
    return tmp_path


def put(proc: Path, pid: str, ticks: int, started: int, pages: int, files: int, proportional: int) -> None:
    """A process: ticks of the processor, start, memory in pages of 4096 bytes and in proportional KiB."""
    folder = proc / pid
    (folder / "fd").mkdir(parents=True)
    for number in range(files):
        (folder / "fd" / str(number)).touch()
    fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 6, str(started), str(1000 * pages), str(pages)]
    (folder / "stat").write_text(f"7 (a name) {' '.join(fields)}")
    (folder / "limits").write_text("Limit  Soft Limit  Hard Limit\nMax open files  1024  4096  files\n")
    (folder / "smaps_rollup").write_text(f"55 rollup\nRss: 9 kB\nPss: {proportional} kB\n")


def samples(proc: Path, workers: list[int]) -> dict[str, float]:
    registry = CollectorRegistry()
    ProcessMetrics(registry, lambda: workers, str(proc))
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}


def test_a_process_alone_is_as_prometheus_clients_have_it(proc: Path) -> None:
    put(proc, "self", ticks=250, started=500, pages=100, files=3, proportional=70)
    assert samples(proc, []) == {
        "process_cpu_seconds_total": 2.5,
        "process_resident_memory_bytes": 100 * 4096,
        "process_virtual_memory_bytes": 100_000,
        "process_start_time_seconds": 1005.0,
        "process_open_fds": 3,
        "process_max_fds": 1024,
    }


def test_workers_count_in_and_what_is_shared_counts_once(proc: Path) -> None:
    """Also while one of them is ending: 12 is there no more."""
    put(proc, "self", ticks=250, started=500, pages=100, files=3, proportional=70)
    put(proc, "11", ticks=100, started=900, pages=100, files=4, proportional=60)
    assert samples(proc, [11, 12]) == {
        "process_cpu_seconds_total": 3.5,
        "process_resident_memory_bytes": 130 * 1024,
        "process_virtual_memory_bytes": 200_000,
        "process_start_time_seconds": 1005.0,
        "process_open_fds": 7,
        "process_max_fds": 1024,
    }


def test_where_there_is_no_proc_nothing_is_told(tmp_path: Path) -> None:
    assert samples(tmp_path, [11]) == {}


def test_the_build_is_a_label() -> None:
    registry = CollectorRegistry()
    register_build_info(registry, "1.2.3")
    assert registry.get_sample_value("layerserve_build_info", {"version": "1.2.3"}) == 1
