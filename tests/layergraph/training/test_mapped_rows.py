"""Rows of memory-mapped arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layergraph.training import mapped_rows
from layergraph.training.mapped_rows import MappedRows


@pytest.fixture(params=["whole", "part", "Fortran order", "in memory"])
def array(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    values = np.arange(2000 * 7, dtype="f4").reshape(2000, 7)
    if request.param == "in memory":
        return values
    np.save(tmp_path / "x.npy", np.asfortranarray(values) if request.param == "Fortran order" else values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    return mapped[100:900] if request.param == "part" else mapped


@pytest.mark.parametrize("waited", [False, True])
def test_rows_are_the_same_asked_for_ahead_or_not(
    array: np.ndarray, waited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(range(100))
    monkeypatch.setattr(mapped_rows, "_reads", lambda: next(counts) if waited else 0)
    rows = MappedRows(array)
    for seed in range(3):
        chosen = np.random.default_rng(seed).permutation(len(array))[:50]
        found = rows.take(chosen)
        assert np.array_equal(found, array[chosen])
        assert found.flags.writeable


def test_rows_are_asked_for_after_a_wait_for_the_disk_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10, 4)))
    monkeypatch.setattr(mapped_rows, "ADVISED_TAKES", 3)
    waits = iter([0, 1, *[1] * 100])
    monkeypatch.setattr(mapped_rows, "_reads", lambda: next(waits))
    asked = []
    monkeypatch.setattr(MappedRows, "_ask_for", lambda self, rows, mapped: asked.append(list(rows)))
    rows = MappedRows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    for index in range(6):
        rows.take(np.array([index]))
    assert asked == [[1], [2], [3]]
