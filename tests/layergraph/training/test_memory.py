"""While a model trains, the process keeps the memory that steps free; afterwards it returns it if it is much."""

import multiprocessing
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from layergraph.training import malloc_tuning as module
from layergraph.training.malloc_tuning import keep_freed_memory

pytestmark = pytest.mark.skipif(module._glibc() is None, reason="another allocator than glibc's as it comes")

#: Bytes, more than the process keeps after a run.
BYTES = 256 * 1024**2
#: Number of pages in it, for the largest page size.
PAGES = BYTES // (2 * 1024**2)


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process of its own. After an allocation that fails, glibc gives a thread another arena for good, and large
    blocks of other arenas are never kept: a test of impossible shapes would change what these tests see."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _keep_less) as executor:
        yield executor


def _keep_less() -> None:
    module._KEPT_AFTERWARDS = BYTES // 2


def _use() -> None:
    torch.zeros(BYTES // 4)


def _pages_given() -> int:
    """Number of pages that the system provides for allocating a large block again that has just been freed.

    The first allocation may also start torch's threads. Their own small blocks then lie behind the large one, and a
    later small one is cut out of it: the second allocation takes new memory. From the third on nothing changes.
    """
    _use()
    _use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    """Number of bytes of this process that are in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _in_a_run() -> int:
    with keep_freed_memory():
        return _pages_given()


def _after_a_run_within() -> int:
    with keep_freed_memory():
        with keep_freed_memory():
            pass
        return _pages_given()


def _kept_and_returned() -> tuple[float, int]:
    """Free bytes in a run, and how many bytes its end returns to the system."""
    glibc = module._glibc()
    assert glibc is not None
    with keep_freed_memory():
        _use()
        free, before = module._free_bytes(glibc), _resident()
    return free, before - _resident()


def _with_settings_of_the_user() -> int:
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "131072"
    try:
        return _in_a_run()
    finally:
        del os.environ["MALLOC_TRIM_THRESHOLD_"]


def test_overlapping_runs_keep_it_until_the_last_one_ends(process: ProcessPoolExecutor) -> None:
    assert process.submit(_after_a_run_within).result() < PAGES // 3


def test_much_free_memory_is_given_back_afterwards(process: ProcessPoolExecutor) -> None:
    free, returned = process.submit(_kept_and_returned).result()
    assert free >= BYTES
    assert returned > BYTES // 2


def test_settings_of_the_user_stay(process: ProcessPoolExecutor) -> None:
    assert process.submit(_with_settings_of_the_user).result() > PAGES // 2
