"""Differences between the inputs and outputs of two versions, as texts."""

from types import SimpleNamespace

import pytest
from layerserve_server.repository.differences import differences


def spec(name, *shape, dtype="float32"):
    return SimpleNamespace(name=name, shape=(None, *shape), dtype=dtype)


def version(number, inputs, outputs):
    return SimpleNamespace(version=number, inputs=inputs, outputs=outputs)


BEFORE = version(3, (spec("a", 4), spec("b")), (spec("y", 2),))


@pytest.mark.parametrize(
    ("inputs", "outputs", "texts"),
    [
        (BEFORE.inputs, BEFORE.outputs, []),
        (
            (spec("a", 3), spec("b", dtype="int32")),
            BEFORE.outputs,
            [
                "input 'a': version 4 has (None, 3) float32, version 3 has (None, 4) float32",
                "input 'b': version 4 has (None,) int32, version 3 has (None,) float32",
            ],
        ),
        (
            (spec("a", 4),),
            (spec("y", 2), spec("z", None)),
            [
                "input 'b': version 4 has none, version 3 has (None,) float32",
                "output 'z': version 4 has (None, None) float32, version 3 has none",
            ],
        ),
        (BEFORE.inputs[::-1], BEFORE.outputs, ["inputs: version 4 has b, a, version 3 has a, b"]),
        # It hasn't been loaded, so that they aren't known.
        ((), (), []),
    ],
)
def test_each_input_and_output_that_differs_has_a_text(inputs, outputs, texts):
    assert differences(BEFORE, version(4, inputs, outputs)) == texts


def test_a_first_version_differs_from_none():
    assert differences(None, BEFORE) == []
    assert differences(BEFORE, None) == []
    assert differences(version(2, (), ()), BEFORE) == []
