"""The format of a model, and which formats can store it."""

from __future__ import annotations

from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.archive import open_archive
from layergraph.errors import ConfigError
from layergraph.saving.formats import FORMATS, chosen_format, own_format
from model_files import FIXTURES


def small() -> layergraph.Model:
    x = layergraph.Input((3,), name="x")
    model = layergraph.Model(x, layergraph.layers.Dense(2, name="y")(x))
    model.compile("adam", "mse")
    return model


def test_a_model_made_here_is_for_keras_3() -> None:
    assert own_format(small()).name == "keras3"


def test_a_file_of_keras_2_goes_back(tmp_path: Path) -> None:
    model = layergraph.load_model(FIXTURES / "dense.h5")
    assert own_format(model).name == "keras2_h5"
    assert chosen_format(model).name == "keras2_h5"
    assert chosen_format(model, "keras3").suffix == ".keras"


@pytest.mark.parametrize("name", ["keras3", "keras3_h5", "keras2_h5"])
def test_what_was_saved_in_a_format_has_it(name: str, tmp_path: Path) -> None:
    chosen = FORMATS[name]
    path = tmp_path / f"m{chosen.suffix}"
    small().save(path, generation=chosen.generation)
    assert own_format(layergraph.load_model(path)) is chosen


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown format 'keras4'"):
        chosen_format(small(), "keras4")


def test_what_a_format_lacks_is_named_with_those_that_can() -> None:
    model = small()
    model.compile("muon", "mse")
    with pytest.raises(ConfigError, match=r"'keras2_h5': .*optimizer Muon isn't supported.*'keras3' or 'keras3_h5'"):
        chosen_format(model, "keras2_h5")


def test_a_layer_in_several_models_is_for_keras_files_alone() -> None:
    shared = layergraph.layers.Dense(3, name="shared")
    entry, x = layergraph.Input((3,)), layergraph.Input((3,))
    inner = layergraph.Model(entry, shared(entry))
    with pytest.raises(ConfigError, match=r"format 'keras3_h5': layer 'shared' .*format 'keras3'"):
        chosen_format(layergraph.Model(x, shared(inner(x))), "keras3_h5")


def test_the_optimizer_of_a_model_that_was_not_trained_goes_back_whole(tmp_path: Path) -> None:
    """Keras loads its state only as a whole."""
    small().save(tmp_path / "m.keras", generation=2)
    with open_archive(tmp_path / "m.keras") as archive:
        assert len(archive.optimizer_weights) == 1 + 2 * 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_options_that_keras_3_lacks_are_refused_by_name(tmp_path, suffix):
    x = layergraph.Input((6, 6, 3))
    y = layers.BatchNormalization(axis=[1, 3], name="norm")(x)
    y = layers.Conv2D(2, 3, kernel_constraint="RadialConstraint", name="conv")(y)
    with pytest.raises(ConfigError) as caught:
        layergraph.Model(x, y).save(tmp_path / f"model{suffix}")
    assert str(caught.value) == (
        "save: Keras 3 lacks layer 'norm': BatchNormalization over several axes; layer 'conv': RadialConstraint as "
        "kernel_constraint; save it for Keras 2"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("nested", [False, True], ids=["sequential", "nested"])
@pytest.mark.parametrize(
    ("layer", "use"),
    [
        (layers.ReLU, "none"),
        (layers.BatchNormalization, "passed"),
        (layers.Softmax, "fitting"),
        (layers.ReLU, "keras3"),
    ],
)
def test_masks_that_end_in_a_sequential_are_refused_by_name(tmp_path, layer, use, nested):
    """In a release of Keras 2; a Sequential of Keras 3 passes them on, and so does a model whose input has a mask."""
    made = layer(name="middle", **({"mask_rule": use} if use == "fitting" else {}))
    if use != "fitting":
        made.treat_masks(use)
    x = layergraph.Input((4, 2))
    if nested:
        inner = layergraph.Input((4, 2))
        part = layergraph.Model(inner, layers.LSTM(2)(made(inner)), name="part")
        model = layergraph.Model(x, part(layers.Masking()(x)))
    else:
        model = layergraph.Sequential([x, layers.Masking(), made, layers.LSTM(2)], name="part")
    if use == "keras3":
        model.save(tmp_path / "model.keras")
        return
    with pytest.raises(ConfigError) as caught:
        model.save(tmp_path / "model.keras")
    assert str(caught.value) == (
        "save: Keras 3 lacks layer 'middle': a call without the mask of its input, in model 'part'; save it for Keras 2"
    )


@pytest.mark.parametrize("rule", ["keras2", "keras3"])
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_a_mask_that_is_lost_at_the_end_of_a_nested_model_is_refused_if_it_is_used(tmp_path, rule, used):
    """Minimum of Keras 2 doesn't use masks, but computes one; in a file of Keras 3 its inputs must have none."""
    inner = layergraph.Input((4, 2))
    masked = layers.Masking()(inner)
    lowest = layers.Minimum(name="lowest", mask_rule=rule)([masked, layers.Masking()(inner)])
    part = layergraph.Model(inner, lowest, name="part")
    x = layergraph.Input((4, 2))
    model = layergraph.Model(x, layers.LSTM(2)(part(x)) if used else part(x))
    if rule == "keras3" or not used:
        model.save(tmp_path / "model.keras")
        return
    with pytest.raises(ConfigError) as caught:
        model.save(tmp_path / "model.keras")
    assert str(caught.value) == (
        "save: Keras 3 lacks layer 'lowest': the mask of its output, which is one of model 'part'; save it for Keras 2"
    )


def test_without_masks_a_sequential_of_such_layers_is_saved(tmp_path):
    made = layers.ReLU()
    made.treat_masks("none")
    model = layergraph.Sequential([layergraph.Input((2,)), made])
    model.save(tmp_path / "model.keras")
    rows = np.array([[-1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(layergraph.load_model(tmp_path / "model.keras").predict(rows), [[0.0, 2.0]])
