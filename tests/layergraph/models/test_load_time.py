"""Loading takes no time for calls that nested models repeat."""

from pathlib import Path

import layergraph
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import CorruptFileError


def doubled(levels: int) -> Model:
    entry = Input((4,))
    model = Model(entry, layers.Dense(4)(entry))
    for _ in range(levels):
        entry = Input((4,))
        model = Model(entry, model(model(entry)))
    return model


def test_models_that_call_one_another_twice_are_made_without_what_they_do_laid_open() -> None:
    """It would take a trillion steps."""
    assert doubled(40).output_shape == (None, 4)


def test_a_file_that_repeats_too_many_calls_is_refused_at_once(tmp_path: Path) -> None:
    doubled(16).save(tmp_path / "model.keras")
    with pytest.raises(CorruptFileError, match="repeats more than 30000 calls"):
        layergraph.load_model(tmp_path / "model.keras")
