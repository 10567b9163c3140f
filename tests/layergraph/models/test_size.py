"""Large models take time in proportion to their size. Function calls are counted, as times vary."""

from __future__ import annotations

import cProfile
import pstats

import layergraph
import numpy as np
import pytest
from large_files import FORMS, WRITERS
from layergraph.functional import shape_inference


def calls(path):
    with cProfile.Profile() as profile:
        model = layergraph.load_model(path)
        inputs = {spec.name: np.ones((1, 2), "float32") for spec in model.input_specs}
        model.predict_on_batch(inputs)
        model.plan().run(inputs)
    return pstats.Stats(profile).total_calls


#: More inputs than a call may have for its shapes to be remembered, and twice as many.
SMALL, LARGE = 70, 140
#: Forms of which both generations of files are tried: calls and weights are read by code of each.
BOTH = ("activations", "dense", "nested")
CASES = [
    (form, suffix) for i, form in enumerate(FORMS) for n, suffix in enumerate(WRITERS) if form in BOTH or i % 2 == n
]


@pytest.mark.parametrize(("form", "suffix"), CASES)
def test_time_is_linear(tmp_path, form, suffix):
    small, large = (WRITERS[suffix](tmp_path / f"{count}{suffix}", FORMS[form](count)) for count in (SMALL, LARGE))
    calls(small)  # fills caches
    assert calls(large) < 1.05 * LARGE / SMALL * calls(small)


@pytest.mark.parametrize("suffix", WRITERS)
def test_equal_layers_are_inferred_once(tmp_path, monkeypatch, suffix):
    anew = []
    infer = shape_inference.infer_anew
    monkeypatch.setattr(shape_inference, "infer_anew", lambda call: anew.append(call) or infer(call))
    monkeypatch.setattr(shape_inference, "_remembered", type(shape_inference._remembered)(16))
    layergraph.load_model(WRITERS[suffix](tmp_path / f"model{suffix}", FORMS["dense"](50)))
    assert len(anew) < 5
