"""Builds and saves models of every kind with another Keras, for `make -C lab generations`.

    PYTHONPATH=lab/generators PYTHON lab/generators/make_generation.py FOLDER COUNT FIRST_SEED [WHICH]

PYTHON has TensorFlow 1.13 to 2.15, a later one with tf_keras (and TF_USE_LEGACY_KERAS=1), or Keras 3 on torch. WHICH
is `keras` for multi-backend Keras beside TensorFlow 1, and `v1` for TensorFlow 2 with the behaviour of 1. The models:
every layer with several options, every layer behind a mask, COUNT random graphs. Each is saved as `.h5` and as
`.keras`, where this Keras can, and `.npz` beside it holds inputs and this Keras's outputs: `input_<i>` and
`output_<i>`; `.txt` says what it is. Runs in Python 3.6, too.
"""

import logging
import os
import signal
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
from layer_models import example, layer_models
from mask_models import mask_models

MOST_SECONDS = 40
SUFFIXES = (".h5", ".keras")


class Peer:
    """The other Keras: its module, its version's name, TensorFlow if the Keras is TensorFlow's."""

    def __init__(self, which=""):
        self.tf = None
        try:
            import tensorflow as tf
        except ImportError:
            import keras

            self.keras, self.name = keras, "Keras " + keras.__version__
            return
        if which == "keras":
            os.environ["KERAS_BACKEND"] = "tensorflow"
            import keras

            self.keras, self.name = keras, "Keras " + keras.__version__
            return
        if which == "v1":
            tf.compat.v1.disable_v2_behavior()
        self.tf, self.keras = tf, tf.keras
        self.name = " ".join(["TensorFlow", tf.__version__, which]).strip()

    @property
    def is_keras3(self):
        return self.tf is None and self.keras.__version__.startswith("3.")

    def since(self, *release):
        """Whether TensorFlow is of that release or a later one."""
        return self.tf is not None and tuple(int(part) for part in self.tf.__version__.split(".")[:2]) >= release

    @property
    def is_eager(self):
        return self.tf is not None and self.tf.executing_eagerly()

    def clear(self):
        self.keras.backend.clear_session()
        if self.tf is not None and hasattr(self.tf, "compat") and not self.is_eager:
            self.tf.compat.v1.reset_default_graph()

    def shape(self, tensor):
        if self.is_keras3:
            return tuple(tensor.shape)
        return tuple(self.keras.backend.int_shape(tensor))

    def dtype(self, tensor):
        return tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name

    def outputs(self, model, inputs):
        """What the model gives, in flat order."""
        if self.is_keras3:
            given = inputs[0] if type(model).__name__ == "Sequential" else self._packed(model.input, inputs)
            return [_array(self.keras.ops.convert_to_numpy(y)) for y in self._flat(model(given, training=False))]
        if self.is_eager and self.since(2, 2):
            nest = self.tf.nest
            given = inputs[0] if type(model).__name__ == "Sequential" else nest.pack_sequence_as(model.input, inputs)
            return [_array(y) for y in nest.flatten(model(given, training=False))]
        return [_array(y) for y in _flat(model.predict(inputs if len(inputs) > 1 else inputs[0]))]

    def _packed(self, structure, leaves):
        if hasattr(self.keras, "tree"):
            return self.keras.tree.pack_sequence_as(structure, leaves)
        # Up to Keras 3.1.
        import tree

        return tree.unflatten_as(structure, leaves)

    def _flat(self, structure):
        if hasattr(self.keras, "tree"):
            return self.keras.tree.flatten(structure)
        import tree

        return tree.flatten(structure)


def _flat(outputs):
    """Outputs in the order of a dict's sorted keys."""
    if isinstance(outputs, dict):
        return [tensor for key in sorted(outputs) for tensor in _flat(outputs[key])]
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in _flat(output)]
    return [outputs]


def _array(value):
    """NumPy lacks bfloat16, which becomes float32."""
    array = value.numpy() if hasattr(value, "numpy") and not hasattr(value, "detach") else value
    array = np.asarray(array.to_dense().numpy() if hasattr(array, "to_dense") else array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def random_models(peer, count, first):
    """Pairs of a label and a function that makes a random graph."""
    for seed in range(first, first + count):
        if peer.is_keras3:
            yield f"graph {seed}", lambda seed=seed: _wide(peer, seed)
        else:
            yield f"graph {seed}", lambda seed=seed: _structure(peer, seed)


def _wide(peer, seed):
    from random_wide_graphs import WideMaker

    return WideMaker(peer.keras, seed).model()


def _structure(peer, seed):
    from random_structures import StructureMaker

    maker = StructureMaker(peer.keras, seed, peer.tf)
    if peer.tf is not None and not peer.since(1, 14):
        # It doesn't make layers of functions.
        maker.share_of_functions = 0.0
    return maker.model()


def moved(model, random):
    """Weights off their first values, so that a swapped one shows."""
    values = model.get_weights()
    if any(value.dtype.kind != "f" and value.dtype.name != "bfloat16" for value in values):
        return
    names = [weight.name for weight in model.weights]
    results = []
    for index, value in enumerate(values):
        new = value.astype("float32") + 0.3 * random.standard_normal(value.shape)
        new = np.abs(new) + 0.2 if len(names) == len(values) and "variance" in names[index] else new
        # Sorted boundaries of TensorFlow 2.5's Discretization end with infinity.
        results.append(new.astype(value.dtype) if np.isfinite(value.astype("float32")).all() else value)
    model.set_weights(results)


def write(peer, stem, label, build, random):
    """One model and its numbers. Raises what this Keras raises where it can't."""
    peer.clear()
    model = build()
    moved(model, random)
    inputs = [example(peer.shape(tensor), peer.dtype(tensor), random) for tensor in model.inputs]
    outputs = peer.outputs(model, inputs)
    written = []
    # Up to TensorFlow 2.12 both are the same HDF5 file; a few show that.
    for suffix in SUFFIXES if peer.is_keras3 or peer.since(2, 13) or random.rand() < 0.1 else SUFFIXES[:1]:
        try:
            model.save(stem + suffix)
            written.append(suffix)
        except Exception as wrong:
            problem = wrong
            if os.path.exists(stem + suffix):
                os.remove(stem + suffix)
    if not written:
        raise problem
    if not peer.is_keras3 and not peer.since(2, 3):
        # What the release makes of the file may differ from the model: options that its config lacks, unused inputs.
        try:
            peer.clear()
            model = peer.keras.models.load_model(stem + written[0], compile=False)
        except Exception as wrong:
            label += " (which it can't load: {})".format(" ".join(str(wrong).split())[:60])
        else:
            if len(model.inputs) != len(inputs):
                inputs = [example(peer.shape(tensor), peer.dtype(tensor), random) for tensor in model.inputs]
            outputs = peer.outputs(model, inputs)
    arrays = {f"input_{i}": _array(array) for i, array in enumerate(inputs)}
    arrays.update({f"output_{i}": array for i, array in enumerate(outputs)})
    np.savez(stem + ".npz", **arrays)
    with open(stem + ".txt", "w") as file:
        file.write(label)


def late(*_):
    """Ends what takes too long."""
    raise TimeoutError(f"took more than {MOST_SECONDS} seconds")


def main(folder, count="50", first="0", which=""):
    """Writes everything; prints the name of this Keras and what it can't make."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    peer = Peer(which)
    signal.signal(signal.SIGALRM, late)
    made, failed = 0, []
    for kind, models in (
        ("layers", layer_models(peer.keras)),
        ("masks", mask_models(peer.keras)),
        ("graphs", random_models(peer, int(count), int(first))),
    ):
        place = os.path.join(folder, kind)
        if not os.path.isdir(place):
            os.makedirs(place)
        for number, (label, build) in enumerate(models):
            # TensorFlow 1 never ends with some models.
            signal.alarm(MOST_SECONDS)
            try:
                write(peer, os.path.join(place, str(number)), label, build, np.random.RandomState(number))
                made += 1
            except Exception as wrong:
                failed.append("{}: {}: {}".format(label, type(wrong).__name__, " ".join(str(wrong).split())[:160]))
    signal.alarm(0)
    with open(os.path.join(folder, "peer.txt"), "w") as file:
        file.write(peer.name)
    with open(os.path.join(folder, "not_made.txt"), "w") as file:
        file.write("\n".join(failed) + "\n")
    print(f"{peer.name}: {made} models, {len(failed)} that it can't make or write", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
