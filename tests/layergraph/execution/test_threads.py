"""Plans in several threads: torch's number of threads holds in each."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import layergraph
import numpy as np
import pytest
import torch

MAPS = Path("/proc/self/maps")


@pytest.fixture
def threads() -> Iterator[int]:
    """A number of threads that OpenMP doesn't have by itself, set for torch."""
    usual, number = torch.get_num_threads(), 1 + (os.cpu_count() or 1)
    torch.set_num_threads(number)
    yield number
    torch.set_num_threads(usual)


@pytest.mark.skipif(not MAPS.exists(), reason="loaded libraries are found in Linux's list of them")
def test_a_new_thread_computes_with_the_number_of_threads_that_was_set(threads: int) -> None:
    """MKL's products have other last bits with another number, so numbers would depend on the thread."""
    loaded = {line.split(maxsplit=5)[-1] for line in MAPS.read_text().splitlines() if "libgomp" in line}
    # Other packages may have brought OpenMP, too: torch's is the one that has its number of threads.
    openmp = next(one for one in map(ctypes.CDLL, loaded) if one.omp_get_max_threads() == threads)
    x = layergraph.Input((4,), name="x")
    plan = layergraph.Model(x, layergraph.layers.Dense(3)(x)).plan()
    rows = {"x": np.ones((2, 4), np.float32)}
    # Packs the kernel, which torch does with a loop of its own.
    plan.run(rows)
    found: list[int] = []

    def compute() -> None:
        found.append(openmp.omp_get_max_threads())
        plan.run(rows)
        found.append(openmp.omp_get_max_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found[0] != threads
    assert found[1] == threads
