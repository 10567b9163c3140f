"""Masks of numbers, in files of releases that differ: up to Keras 3.6, 3.9, 3.12 and 3.14, since then, and tf.keras."""

from pathlib import Path

import numpy as np
import pytest
from layergraph import load_model
from model_files import FIXTURES
from oracles import assert_close

FILES = sorted((FIXTURES.parent / "numeric_masks").glob("*.keras"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_mask_of_numbers_does_what_it_did_in_the_release_of_the_file(path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as arrays:
        expected = [arrays[name] for name in sorted(arrays.files) if name.startswith("out")]
        result = load_model(path).plan().run({name: arrays[name] for name in ("x", "m")})
    assert len(result) == len(expected)
    for got, want in zip(result.values(), expected, strict=True):
        assert_close(got, want, 1e-5)
