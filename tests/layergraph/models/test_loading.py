"""Model files of both generations, loaded, have Keras's numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph.errors import CorruptFileError, UnsupportedModelError
from model_files import ENDING_MASKS, FIXTURES, MODELS, check_fixture, example, halves, predict
from oracles import assert_close, perturb


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.h5")) + sorted(FIXTURES.glob("*.keras")), ids=lambda p: p.name)
def test_files_of_tf_keras_215_give_its_numbers(path: Path) -> None:
    model = check_fixture(path)
    assert model.keras_version == "2.15.0"


@pytest.mark.parametrize("name", ["counted", "weightless"])
def test_a_file_of_keras_213_counts_layers_with_weights_twice(name: str) -> None:
    """Several Dense and BatchNormalization layers, also in nested models, with layers without weights in between; and
    nested models of which only some have weights.
    """
    path = FIXTURES.parent / f"keras2_13_{name}.keras"
    model = layergraph.load_model(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        result = model.plan().run({model.input_names[0]: arrays["a"]})
        assert_close(next(iter(result.values())), arrays["b"])


def test_groups_of_arrays_have_the_names_of_early_classes() -> None:
    """cuDNN's layers and SyncBatchNormalization in a `.keras`, each beside the layer that it is now an option of."""
    check_fixture(FIXTURES.parent / "early_classes.keras")


@pytest.mark.parametrize("name", ["dense.h5", "dense.keras", "headline.h5", "headline.keras"])
def test_compile_arguments_of_keras_2_are_kept(name: str) -> None:
    config: Any = layergraph.load_model(FIXTURES / name).compile_config
    optimizer = config["optimizer"]
    assert (optimizer if isinstance(optimizer, str) else optimizer["class_name"]).lower() == "rmsprop"
    if name.startswith("dense"):
        assert config["loss"] == "categorical_crossentropy"
        assert config["metrics"] == (["accuracy"])
    else:
        assert config["loss"] == "binary_crossentropy"
        assert config["loss_weights"] == [1.0, 0.2]


pytestmark = pytest.mark.filterwarnings(ENDING_MASKS)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("build", MODELS, ids=lambda f: f.__name__)
def test_files_of_stock_keras_3_give_its_numbers(build: Any, ending: str, tmp_path: Path) -> None:
    model = build()
    perturb(model)
    arrays = example(model)
    expected = predict(model, arrays)
    model.save(tmp_path / f"model{ending}")
    loaded = layergraph.load_model(tmp_path)
    result = loaded.plan().run(dict(zip(loaded.input_names, arrays, strict=True)))
    for got, want in zip(result.values(), expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_other_types_are_read(ending: str, tmp_path: Path) -> None:
    model = halves()
    perturb(model)
    model.save(tmp_path / f"model{ending}")
    loaded = layergraph.load_model(tmp_path)
    assert [weight.dtype for weight in loaded.weights] == ["float64", "float64", "bfloat16", "bfloat16"]
    for got, want in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(got.value.detach().float().numpy(), want.value.detach().float().numpy())


def test_all_that_is_unsupported_is_named_at_once(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("mine")
    class Odd(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    x = keras.Input((4,))
    y = keras.layers.Lambda(lambda t: t + 1, name="plus")(Odd(name="odd")(x))
    keras.Model(x, keras.layers.TimeDistributed(keras.layers.Dense(2))(keras.layers.Reshape((2, 2))(y))).save(
        tmp_path / "model.keras"
    )
    with pytest.raises(UnsupportedModelError) as raised:
        layergraph.load_model(tmp_path)
    text = str(raised.value)
    assert "layer 'plus': Lambda holds Python code" in text
    assert f"layer 'odd': class 'mine>Odd' of module '{__name__}' is not supported" in text
    assert len(raised.value.problems) == 2


def test_a_wrong_weight_is_named_with_its_layer(tmp_path: Path) -> None:
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Dense(2, name="out")(x)).save(tmp_path / "good.h5")
    import h5py

    with h5py.File(tmp_path / "good.h5", "r+") as file:
        del file["model_weights/out/out/kernel"]
        file["model_weights/out/out/kernel"] = np.ones((2, 4), "f4")
    with pytest.raises(
        CorruptFileError, match=r"layer 'out' \(Dense\): weight 'kernel' has shape \(2, 4\) .* \(4, 2\)"
    ):
        layergraph.load_model(tmp_path / "good.h5")


@pytest.mark.parametrize("layer", ["RepeatVector", "UpSampling1D", "ZeroPadding1D"])
def test_a_file_that_grows_its_input_beyond_bounds_is_refused(layer: str, tmp_path: Path) -> None:
    x = keras.Input((4,) if layer == "RepeatVector" else (3, 4))
    keras.Model(x, getattr(keras.layers, layer)(2_000_000_000)(x)).save(tmp_path / "model.keras")
    with pytest.raises(CorruptFileError, match=rf"{layer}.* one row of its output"):
        layergraph.load_model(tmp_path)


def test_long_sequences_that_are_cropped_load(tmp_path: Path) -> None:
    x = keras.Input((None, 2))
    keras.Model(x, keras.layers.Cropping1D(5000)(x)).save(tmp_path / "model.keras")
    assert layergraph.load_model(tmp_path).outputs[0].shape == (None, None, 2)


@pytest.mark.parametrize("levels", [4, 40])
def test_models_that_call_one_another_twice_are_counted(levels: int) -> None:
    from layergraph.config.spec import CallSpec, GraphSpec, LayerSpec, TensorRef
    from layergraph.errors import GraphError
    from layergraph.models.from_config import rebuild

    inside = LayerSpec("x", "InputLayer", {"name": "x", "batch_shape": [None, 4]})
    once, again = (CallSpec((TensorRef(*ref),)) for ref in (("x", 0, 0), ("inner", 0, 0)))
    spec = GraphSpec(
        "m",
        (inside, LayerSpec("inner", "ReLU", {"name": "inner"}, (once, again))),
        TensorRef("x", 0, 0),
        TensorRef("inner", 1, 0),
    )
    for _ in range(levels):
        layers = (inside, LayerSpec("inner", "", {}, (once, again), graph=spec))
        spec = GraphSpec("m", layers, TensorRef("x", 0, 0), TensorRef("inner", 1, 0))
    if levels > 10:
        with pytest.raises(GraphError, match="repeats more than"):
            rebuild(spec, lambda key, value: False)
    else:
        assert rebuild(spec, lambda key, value: False).model.outputs[0].shape == (None, 4)


def test_save_model_overwrites_by_default(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model = layergraph.Sequential([layergraph.Input((2,)), layergraph.layers.Dense(1)])
    for _ in range(2):
        layergraph.models.save_model(model, path)
    before = path.read_bytes()
    for save in (lambda: layergraph.models.save_model(model, path, False), lambda: model.save(path, overwrite=False)):
        with pytest.raises(FileExistsError, match=r"m.keras' exists; expected a new path, or overwrite=True"):
            save()
    assert path.read_bytes() == before
    layergraph.models.save_model(model, tmp_path / "new.h5", False, generation=2)
    assert np.array_equal(layergraph.load_model(tmp_path / "new.h5").get_weights()[0], model.get_weights()[0])
