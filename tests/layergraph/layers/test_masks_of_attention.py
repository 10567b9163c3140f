"""MultiHeadAttention removes the masks of its inputs, in Keras 3.8 and later: blocks of a transformer depend on it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import load_model
from model_oracles import check_model, in_order_of_making
from oracles import assert_close, keras

IDS = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0]])


def block(k: Any, x: Any) -> Any:
    """The encoder of Keras's examples."""
    x = k.layers.LayerNormalization()(k.layers.Add()([x, k.layers.MultiHeadAttention(2, 3)(x, x)]))
    return k.layers.LayerNormalization()(k.layers.Add()([x, k.layers.Dense(4)(x)]))


def two_blocks(k: Any, x: Any) -> Any:
    return block(k, block(k, x))


def pooled(k: Any, x: Any) -> Any:
    return k.layers.GlobalAveragePooling1D()(two_blocks(k, x))


def two_readers(k: Any, x: Any) -> Any:
    """Only the first of two layers that attend to a tensor finds its mask."""
    y = k.layers.LayerNormalization()(x)
    return k.layers.Add()([k.layers.MultiHeadAttention(2, 3)(y, y), k.layers.MultiHeadAttention(2, 3)(x, y)])


def same_tensor(k: Any, x: Any) -> Any:
    """Dropout returns its input, and with it what had become of the mask."""
    y = k.layers.Activation("linear")(k.layers.Dropout(0.3)(x))
    first = k.layers.MultiHeadAttention(2, 3)(y, y)
    return k.layers.Add()([first, k.layers.MultiHeadAttention(2, 3)(first, x)])


def cast_tensor(k: Any, x: Any) -> Any:
    """A Dropout that casts its input returns another tensor."""
    y = k.layers.Dropout(0.3, dtype="float64")(x)
    first = k.layers.LayerNormalization()(k.layers.MultiHeadAttention(2, 3)(x, x))
    return k.layers.Add()([first, k.layers.MultiHeadAttention(2, 3)(y, y)])


def attended(k: Any, x: Any) -> Any:
    """The masks of a list are looked up when the model runs, the mask of one tensor isn't."""
    y = k.layers.Attention()([k.layers.MultiHeadAttention(2, 3)(x, x), x])
    return k.layers.GlobalAveragePooling1D()(y)


def joined(k: Any, x: Any) -> Any:
    """An LSTM has the mask that joined tensors had when the model was built, also behind other layers."""
    y = k.layers.Concatenate()([x, k.layers.MultiHeadAttention(2, 3)(x, x)])
    return k.layers.Add()([k.layers.LSTM(3)(y), k.layers.LSTM(3)(k.layers.Dense(4)(y))])


def model_of_attention(k: Any) -> Any:
    x = k.Input((6, 4))
    y = k.layers.LayerNormalization()(x)
    z = k.layers.MultiHeadAttention(2, 3)(y, x, y)
    return k.Model(x, k.layers.MultiHeadAttention(2, 3)(z, z, y))


def joined_with_a_model(k: Any, x: Any) -> Any:
    """When the model was built, the outputs of a model in it had no mask, and count as kept."""
    y = k.layers.Activation("linear")(k.layers.MultiHeadAttention(2, 3)(x, x, x))
    shared = model_of_attention(k)
    first = shared(x)
    shared(x)
    return k.layers.LSTM(4, return_sequences=True)(k.layers.Dense(4)(k.layers.Concatenate()([y, first])))


def joined_for_a_model(k: Any, x: Any) -> Any:
    """A model called on one tensor sets its mask again: the one of when the model was built."""
    y = k.layers.MultiHeadAttention(2, 3)(x, x)
    z = k.layers.Dense(4)(k.layers.Concatenate()([x, y]))
    attended = k.layers.MultiHeadAttention(2, 3)(y, z, z)
    inside = k.Input((6, 4))
    shared = k.Model(inside, k.layers.MultiHeadAttention(2, 3)(inside, inside))
    first, second = shared(z), shared(attended)
    return k.layers.MultiHeadAttention(2, 3)(first, first, second)


def inner(k: Any, attends: bool) -> Any:
    x = k.Input((6, 4))
    layer = k.layers.MultiHeadAttention(2, 3)
    return k.Model(x, k.layers.Add()([x, layer(x, x) if attends else k.layers.Dense(4)(x)]))


def nested(k: Any, x: Any) -> Any:
    """What a nested model removes is lost outside, too, and its call sets the mask that was there at first."""
    attends, passes = inner(k, True), inner(k, False)
    first = attends(x)
    second = k.layers.MultiHeadAttention(2, 3)(x, x)
    third = passes(x)
    return k.layers.Concatenate()([first, second, third, k.layers.MultiHeadAttention(2, 3)(third, x)])


def nested_and_read(k: Any, x: Any) -> Any:
    """Outputs of a nested model have no mask before the model runs."""
    y = k.layers.MultiHeadAttention(2, 3)(x, x)
    average = k.layers.Average()([inner(k, False)(y), k.layers.MultiHeadAttention(2, 3)(x, x)])
    return k.layers.LSTM(3)(average)


def set_again(k: Any, x: Any) -> Any:
    """The call of a nested model sets the mask that a layer before it, which is deeper, has removed."""
    early = k.layers.Dense(4)(k.layers.Dense(4)(k.layers.MultiHeadAttention(2, 3)(x, x)))
    return k.layers.Add()([early, k.layers.MultiHeadAttention(2, 3)(inner(k, False)(x), x)])


def named(k: Any, x: Any) -> Any:
    """A mask that a call of a nested model names is set, too."""
    y = inner(k, False)(x)
    early = k.layers.Dense(4)(k.layers.Dense(4)(k.layers.MultiHeadAttention(2, 3)(y, y)))
    return k.layers.Add()([early, inner(k, True)(y, mask=k.ops.any(k.ops.greater(x, 0.0), axis=-1))])


def twice(k: Any, x: Any) -> Any:
    """Two calls of one model on one tensor: only the first finds a mask that wasn't there when the model was built."""
    y, shared = inner(k, False)(x), inner(k, True)
    return k.layers.Concatenate()([shared(y), shared(y)])


CASES = [
    block,
    two_blocks,
    pooled,
    two_readers,
    same_tensor,
    cast_tensor,
    attended,
    joined,
    joined_with_a_model,
    joined_for_a_model,
    nested,
    nested_and_read,
    set_again,
    named,
    twice,
]


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("layers", CASES)
def test_masks_end_at_the_first_attention(layers: Any, tmp_path: Path) -> None:
    def build(k: Any) -> Any:
        x = k.Input((6,), dtype="int64")
        return [x], [layers(k, k.layers.Embedding(9, 4, mask_zero=True)(x))]

    check_model(build, [IDS], tmp_path)


def two_attentions(*, explicit: bool) -> Any:
    """Two layers that attend to one tensor, the second with its mask as an argument if `explicit`."""
    ids = keras.Input((6,), dtype="int64")
    x = keras.layers.Embedding(9, 4, mask_zero=True, name="embedding")(ids)
    y = keras.layers.LayerNormalization(name="normalized")(x)
    first = keras.layers.MultiHeadAttention(2, 3, name="first")(y, y)
    mask = keras.ops.expand_dims(keras.ops.not_equal(ids, 0), 1)
    given = {"attention_mask": mask} if explicit else {}
    return keras.Model(
        ids, keras.layers.Add()([first, keras.layers.MultiHeadAttention(2, 3, name="second")(x, y, **given)])
    )


def test_files_of_keras_3_7_keep_masks(tmp_path: Path) -> None:
    model, expected = two_attentions(explicit=False), two_attentions(explicit=True)
    expected.set_weights(model.get_weights())
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            old.writestr(name, json.dumps({"keras_version": "3.7.0"}) if name == "metadata.json" else content)
    assert_close(run(load_model(tmp_path / "old.keras")), expected.predict(IDS, verbose=0))
    assert_close(run(load_model(tmp_path / "new.keras")), model.predict(IDS, verbose=0))
    assert np.abs(model.predict(IDS, verbose=0) - expected.predict(IDS, verbose=0)).max() > 1e-3


def run(model: Any) -> Any:
    (result,) = model.plan().run({model.input_names[0]: IDS}).values()
    return result


def three_outputs(k: Any) -> Any:
    """The first has lost its mask. An LSTM passes on the mask that it gets, which isn't lost."""
    ids = k.Input((6,), dtype="int64")
    x = k.layers.LayerNormalization()(k.layers.Embedding(9, 4, mask_zero=True)(ids))
    attended = k.layers.MultiHeadAttention(2, 3)(x, x)
    sequence = k.layers.LSTM(4, return_sequences=True)(k.layers.MultiHeadAttention(2, 3)(x, attended))
    return k.Model(ids, [x, attended, sequence])


@pytest.mark.parametrize("both", [True, False])
def test_joined_with_a_mask_that_is_left(both: bool, tmp_path: Path) -> None:
    """Concatenate takes True in place of a mask that is lost, and has none if both are. The loss shows which."""
    ids, others = keras.Input((6,), dtype="int64"), keras.Input((6,), dtype="int64")
    first = keras.layers.LayerNormalization()(keras.layers.Embedding(9, 4, mask_zero=True)(ids))
    second = keras.layers.LayerNormalization()(keras.layers.Embedding(9, 4, mask_zero=True)(others))
    attended = keras.layers.MultiHeadAttention(2, 3)(first, second if both else first)
    joined = [keras.layers.Concatenate(axis=axis)([first, second]) for axis in (1, 2)]
    model = keras.Model([ids, others], [keras.layers.Dense(4)(attended), *joined])
    model.save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras")
    y = [np.full((2, 12 if index == 1 else 6, 8 if index == 2 else 4), 3.0, np.float32) for index in range(3)]
    rows = [IDS, np.array([[3, 1, 0, 0, 0, 0], [5, 2, 6, 7, 8, 0]])]
    for one in (model, ours):
        one.compile("sgd", ["mse"] * 3)
    np.testing.assert_allclose(ours.evaluate(rows, y), model.evaluate(rows, y, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("loaded", [True, False])
def test_an_output_that_has_lost_its_mask_counts_whole_in_the_loss(loaded: bool, tmp_path: Path) -> None:
    model = three_outputs(keras)
    model.save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras") if loaded else three_outputs(layergraph)
    for layer, other in zip(in_order_of_making(ours), in_order_of_making(model), strict=True):
        layer.set_weights(other.get_weights())
    y = [np.full((2, 6, 4), 3.0, np.float32)] * 3
    for one in (model, ours):
        one.compile("sgd", ["mse"] * 3)
    np.testing.assert_allclose(ours.evaluate(IDS, y)[0], model.evaluate(IDS, y, verbose=0)[0], rtol=1e-5)
