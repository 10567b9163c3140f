"""Shapes are inferred without torch's compiler, whose import takes a second."""

from __future__ import annotations

import subprocess
import sys

#: Builds models of several families of layers, runs one, and prints whether the compiler was imported.
PROGRAM = """
import sys
import numpy as np
from layergraph import Input, Model, layers
from layergraph.functional import meta_kernels

x, image, words = Input((8,)), Input((8, 8, 3)), Input((5,), dtype="int32")
y = layers.LayerNormalization()(layers.Dense(4, activation="gelu")(x))
z = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(image)))
rows = layers.Embedding(10, 4)(words)
v = layers.LSTM(4)(layers.MultiHeadAttention(2, 4)(rows, rows))
model = Model([x, image, words], layers.Softmax()(layers.Add()([y, z, v])))
model.predict([np.ones((2, 8), "f"), np.ones((2, 8, 8, 3), "f"), np.ones((2, 5), "i")])
print("torch._dynamo" in sys.modules)
meta_kernels.let_compiler_in()
Model(x, layers.Dense(3, activation="selu")(x))
print("torch._dynamo" in sys.modules)
"""


def test_no_compiler_is_imported_unless_it_is_let_in() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=True)
    assert result.stdout.split() == ["False", "True"]
