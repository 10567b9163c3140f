"""Loading takes time linear in the size of a file, and none for calls that nested models repeat."""

import time
from collections.abc import Callable
from pathlib import Path

import layergraph
import pytest
from layergraph import Input, Model, Sequential, layers
from layergraph.errors import CorruptFileError


def stack(count: int) -> Model:
    return Sequential([Input((4,)), *(layers.Activation("relu", name=f"a{i}") for i in range(count))])


def calls(count: int) -> Model:
    entry = Input((4,))
    shared = Sequential([Input((4,)), layers.Activation("relu")])
    x = entry
    for _ in range(count):
        x = shared(x)
    return Model(entry, x)


def same_outputs(count: int) -> Model:
    entry = Input((4,))
    return Model(entry, [entry] * count)


@pytest.mark.parametrize("make", [stack, calls, same_outputs])
def test_four_times_as_much_takes_about_four_times_as_long(make: Callable[[int], Model]) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        model = make(count)
        assert len(set(model.output_names)) == len(model.outputs)
        model.plan()
        return time.process_time() - start

    seconds(10)
    short = min(seconds(100) for _ in range(2))
    # Quadratic time would take sixteen times as long.
    assert min(seconds(400) for _ in range(2)) < 9 * max(short, 0.002)


def doubled(levels: int) -> Model:
    entry = Input((4,))
    model = Model(entry, layers.Dense(4)(entry))
    for _ in range(levels):
        entry = Input((4,))
        model = Model(entry, model(model(entry)))
    return model


def test_models_that_call_one_another_twice_are_made_without_what_they_do_laid_open() -> None:
    start = time.process_time()
    model = doubled(40)
    assert model.output_shape == (None, 4)
    assert time.process_time() - start < 2


def test_a_file_that_repeats_too_many_calls_is_refused_at_once(tmp_path: Path) -> None:
    doubled(16).save(tmp_path / "model.keras")
    start = time.process_time()
    with pytest.raises(CorruptFileError, match="repeats more than 30000 calls"):
        layergraph.load_model(tmp_path / "model.keras")
    assert time.process_time() - start < 2
