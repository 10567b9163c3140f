"""Layers whose outputs don't fit into any memory: an error names the layer, and torch's own text isn't shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import OutOfMemoryError

Array = np.ndarray[Any, Any]
#: Name of the layer, an input, and the model. The outputs have more bytes than a process has addresses.
MODELS: dict[str, tuple[str, Array, Callable[[Any], Any]]] = {
    "an image": (
        "pad",
        np.ones((1, 4, 4, 1), np.float32),
        lambda x: layers.GlobalAveragePooling2D()(layers.ZeroPadding2D(10**7, name="pad")(x)),
    ),
    "categories": (
        "code",
        np.ones((2**17, 4), np.int64),
        lambda x: layers.CategoryEncoding(2**31 - 1, output_mode="multi_hot", name="code")(x),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "run",
    [
        lambda model, array: model.predict(array, batch_size=len(array)),
        lambda model, array: model.plan().run({model.input_names[0]: array}),
        lambda model, array: model(array),
        lambda model, array: model.plan().run_eagerly([array], []),
    ],
    ids=["predict", "run", "call", "recording"],
)
def test_the_error_names_the_layer(name: str, run: Callable[[Any, Array], Any]) -> None:
    layer, array, outputs = MODELS[name]
    x = layergraph.Input(array.shape[1:], dtype=str(array.dtype))
    model = layergraph.Model(x, outputs(x))
    with pytest.raises(OutOfMemoryError, match=rf"layer '{layer}' \(\w+\): needs more memory than there is") as caught:
        run(model, array)
    assert isinstance(caught.value, MemoryError)


def test_other_errors_of_a_layer_stay() -> None:
    x = layergraph.Input((None, 4))
    model = layergraph.Model(x, layers.Conv1D(2, 3)(x))
    with pytest.raises(layergraph.errors.DataError, match="expected at least 3"):
        model.plan().run({model.input_names[0]: np.ones((1, 2, 4), np.float32)})
