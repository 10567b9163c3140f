"""While a model trains, the process keeps the memory that steps free; afterwards it returns it if it is much."""

import resource

import pytest
import torch
from layergraph.training import malloc_tuning as module
from layergraph.training.malloc_tuning import keep_freed_memory

pytestmark = pytest.mark.skipif(module._glibc() is None, reason="another allocator than glibc's as it comes")

#: Bytes, more than the process keeps without a run.
BYTES = 640 * 1024**2
#: Number of pages in it, for the largest page size.
PAGES = BYTES // (2 * 1024**2)


def _use() -> None:
    torch.zeros(BYTES // 4)


def _pages_given() -> int:
    """Number of pages that the system provides for allocating a large block again that has just been freed."""
    _use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_kept_while_a_model_trains() -> None:
    with keep_freed_memory():
        assert _pages_given() < PAGES // 3


def test_overlapping_runs_keep_it_until_the_last_one_ends() -> None:
    with keep_freed_memory():
        with keep_freed_memory():
            pass
        assert _pages_given() < PAGES // 3


def test_much_free_memory_is_given_back_afterwards() -> None:
    glibc = module._glibc()
    assert glibc is not None
    with keep_freed_memory():
        _use()
        assert module._free_bytes(glibc) >= BYTES
        with open("/proc/self/statm") as statm:
            before = int(statm.read().split()[1])
    with open("/proc/self/statm") as statm:
        after = int(statm.read().split()[1])
    assert (before - after) * resource.getpagesize() > BYTES // 2


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with keep_freed_memory():
        assert _pages_given() > PAGES // 2
