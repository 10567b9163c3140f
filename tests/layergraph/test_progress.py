"""The bar of `fit`, `evaluate` and `predict`: what it says where nobody knows how many steps there are."""

from __future__ import annotations

import io

import pytest
from layergraph.training.progress import Progress


@pytest.mark.parametrize(("steps", "done", "shown"), [(None, 0, 0), (None, 3, 3), (4, 2, 4)])
def test_the_last_line_has_the_steps_done_where_none_are_known(steps: int | None, done: int, shown: int) -> None:
    stream = io.StringIO()
    bar = Progress(2, stream)
    bar.set_params({"steps": steps, "epochs": 1})
    bar.on_test_begin()
    for batch in range(done):
        bar.on_test_batch_end(batch)
    bar.on_test_end({"loss": 0.5})
    assert stream.getvalue().startswith(f"{shown}/{shown} - ")
    assert stream.getvalue().endswith(" - loss: 0.5000\n")
