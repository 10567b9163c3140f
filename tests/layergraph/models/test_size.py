"""A model of twice the layers takes twice the time. Function calls are counted, as times vary.

`make -C lab sizes` has files of many more forms and sizes.
"""

import cProfile
import pstats

import layergraph
import numpy as np
import pytest


def calls(path, count):
    """Function calls to load and to run a chain of layers from a file."""
    x = y = layergraph.Input((2,), name="x")
    for _ in range(count):
        y = layergraph.layers.Dense(2)(y)
    layergraph.Model(x, y).save(path)
    with cProfile.Profile() as profile:
        layergraph.load_model(path).plan().run({"x": np.ones((1, 2), "float32")})
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_time_is_linear(tmp_path, suffix):
    calls(tmp_path / f"caches{suffix}", 70)  # fills caches
    assert calls(tmp_path / f"large{suffix}", 140) < 2.1 * calls(tmp_path / f"small{suffix}", 70)
