"""Rows of earlier batches beside those of later ones: by the seed and the steps alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layerserve_server.extensions.online import replay_buffer
from layerserve_server.extensions.online.replay_buffer import ReplayBuffer
from layerserve_server.training.request import Role

X, Y = (Role.X, "x"), (Role.Y, "y")


def batch(number: int, rows: int = 4, width: int = 1) -> Any:
    x = np.arange(rows * width, dtype="float32").reshape(rows, width) + 100 * number
    return {X: x, Y: -x}


def filled(steps: int = 3, share: float = 0.5, last: int = 5) -> ReplayBuffer:
    held = ReplayBuffer(7, steps, share)
    for number in range(1, last + 1):
        held.add(number, batch(number))
    return held


def test_rows_of_the_last_batches_are_added() -> None:
    held = filled()
    mixed = held.mixed(6, batch(6))
    assert held.first == 3
    assert mixed[X][:4].tolist() == batch(6)[X].tolist()
    added = mixed[X][4:, 0]
    assert len(added) == 2
    assert set(added // 100) <= {3, 4, 5}
    assert (mixed[Y] == -mixed[X]).all(), "all arrays have the same rows"
    assert len(set(filled(share=3.0).mixed(6, batch(6))[X][:, 0])) == 16, "no row is added twice"
    assert len(filled(share=16.0).mixed(6, batch(6))[X]) == 4 + 12, "at most all that are kept"


def test_the_choice_depends_on_seed_and_step_alone() -> None:
    again = ReplayBuffer(7, 3, 0.5)
    for number in (3, 4, 5):
        again.add(number, batch(number))
    assert again.mixed(6, batch(6))[X].tolist() == filled().mixed(6, batch(6))[X].tolist()
    chosen = {tuple(filled().mixed(step, batch(6))[X][4:, 0]) for step in range(6, 16)}
    assert len(chosen) > 5


def test_only_batches_of_the_same_form_count() -> None:
    held = filled()
    assert len(held.mixed(6, batch(6, width=2))[X]) == 4
    assert len(held.mixed(6, {X: batch(6)[X]})[X]) == 4
    assert len(ReplayBuffer(7, 3, 0.5).mixed(1, batch(1))[X]) == 4


def test_nothing_is_kept_without_a_share_and_little_of_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled(share=0.0).first is None
    monkeypatch.setattr(replay_buffer, "MAX_BYTES", 64)
    assert filled().first == 4
    held = filled()
    held.clear()
    assert held.first is None
    held.add(6, {X: np.array([b"x" * 100], object)})
    assert held.first is None, "a batch of text counts with its text"
