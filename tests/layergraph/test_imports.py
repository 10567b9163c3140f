"""What layergraph imports, and what it doesn't, in a process of its own."""

import subprocess
import sys

#: Packages that layergraph must not import: the protocol, the server, and anything that could run code from a model
#: file.
ELSEWHERE = ("grpc", "google.protobuf", "layerserve", "layerserve_server", "layerserve_zoo", "keras", "tensorflow")

#: Prints what is imported after each step: by the package, by the use of its modules, by models of several families of
#: layers, whose shapes are inferred without torch's compiler, and after the compiler was let in.
PROGRAM = f"""
import sys
import layergraph as keras
print([name for name in {ELSEWHERE} if name in sys.modules])
modules = ("losses", "metrics", "callbacks", "optimizers", "utils", "ops.functions")
print([name for name in modules if "layergraph." + name in sys.modules])
assert keras.optimizers.Adam(1e-3).get_config()["learning_rate"] == 1e-3
keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.callbacks.EarlyStopping(patience=3)
keras.metrics.AUC(), keras.utils.to_categorical([1, 0]), keras.regularizers.l2(0.01), keras.initializers.get("ones")
keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), keras.models.Sequential(), keras.activations.relu
from layergraph import layers, losses
from layergraph.models import Model, load_model
from layergraph.optimizers import Adam
from layergraph.optimizers.schedules import CosineDecay

import numpy as np
from layergraph import Input
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


def test_only_what_is_used_is_imported() -> None:
    """Modules are there as for `import keras`, and are imported on first access; torch's compiler takes a second."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", "False", "True", ""]
