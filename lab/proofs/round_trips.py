"""Compares models of another Keras before and after a round trip: `make -C lab round-trips PEER=PYTHON COUNT=200`.

PEER is a Python with that Keras. The step `make` has it save every layer and COUNT random graphs, `back` loads each
file here and saves it for the Keras that it came from, and `check` has that Keras open what was saved: outputs must be
equal, and for compiled models also the logs of further training. The exit status is 1 if a file doesn't open or
differs.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np

#: Relative to the largest number of an output: what rounding may do in a deep graph.
TOLERANCE = 1e-5
SUFFIXES = (".h5", ".keras")


def numbers_of(folder):
    """The files with numbers, and the models beside each."""
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(os.path.join(folder, name))
        if suffix == ".npz":
            yield stem, [stem + end for end in SUFFIXES if os.path.exists(stem + end)]


def numbered(arrays, start):
    """The arrays called `<start>_0`, `<start>_1`, ..."""
    return [arrays[f"{start}_{i}"] for i in range(sum(name.startswith(start + "_") for name in arrays.files))]


def told(path, wrong):
    """Prints what went wrong with a file, on one line."""
    label = os.path.splitext(path)[0].replace(os.sep + "back" + os.sep, os.sep) + ".txt"
    if os.path.exists(label):
        with open(label) as file:
            path = f"{path} ({file.read()})"
    print(f"{path}: {type(wrong).__name__}: {' '.join(str(wrong).split())[:400]}", flush=True)


# Where the other Keras is installed: models.


def make(folder, count="0"):
    """Writes the models in every format that this Keras has, with what it gives for them."""
    from layer_models import layer_models

    keras, compute = other_keras()
    os.makedirs(folder, exist_ok=True)
    made = refused = 0
    for number, (label, build) in enumerate(layer_models(keras)):
        stem = os.path.join(folder, f"layer{number}")
        try:
            keras.backend.clear_session()
            write(keras, compute, build(), stem, np.random.RandomState(number), label)
            made += 1
        except Exception as wrong:
            refused += 1
            told(label, wrong)
    print(f"{made} models, {refused} that this Keras can't make or write")
    if int(count):
        from make_structures import main as make_structures

        make_structures(folder, int(count), 0)
    return 0


def write(keras, compute, model, stem, random, label):
    """One model with random weights, if it computes."""
    from layer_models import example

    values = model.get_weights()
    if all(value.dtype.kind == "f" for value in values):
        model.set_weights([value + 0.3 * random.rand(*value.shape).astype(value.dtype) for value in values])
    inputs = [example(tuple(tensor.shape), name_of(tensor.dtype), random) for tensor in model.inputs]
    outputs = [as_array(output) for output in compute(model, inputs)]
    arrays = {f"input_{i}": array for i, array in enumerate(inputs)}
    arrays.update({f"output_{i}": array for i, array in enumerate(outputs)})
    formats = 0
    for suffix in SUFFIXES:
        try:
            model.save(stem + suffix)
            formats += 1
        except Exception as wrong:
            if os.path.exists(stem + suffix):
                os.remove(stem + suffix)
            told(f"{label} as {suffix}", wrong)
    if formats:
        np.savez(stem + ".npz", **arrays)
        with open(stem + ".txt", "w") as file:
            file.write(label)


def name_of(dtype):
    """Keras's name of an element type."""
    return dtype if isinstance(dtype, str) else dtype.name


# Here.


def back(folder):
    """Loads and saves every file."""
    from pathlib import Path

    import layergraph

    target = Path(folder) / "back"
    target.mkdir(exist_ok=True)
    count = failed = 0
    for _, paths in numbers_of(folder):
        for path in paths:
            count += 1
            try:
                layergraph.load_model(path).save(target / os.path.basename(path))
            except Exception as wrong:
                failed += 1
                told(path, wrong)
    print(f"{count} files, {failed} that can't be loaded or saved here")
    return 1 if failed else 0


# Where the other Keras is installed.


def other_keras():
    """That Keras, and how it computes with a model, in flat order."""
    try:
        import tensorflow as tf
    except ImportError:
        import keras

        return keras, lambda model, inputs: keras.tree.flatten(model(packed(keras.tree, model, inputs), training=False))
    if tf.__version__.startswith("2."):
        return tf.keras, lambda model, inputs: tf.nest.flatten(model(packed(tf.nest, model, inputs), training=False))
    import keras

    return keras, lambda model, inputs: flat(model.predict_on_batch(inputs))


def flat(outputs):
    """One output or several as a list."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def packed(tree, model, inputs):
    """Flat inputs as the model takes them."""
    if type(model).__name__ == "Sequential":
        return inputs[0]
    return tree.pack_sequence_as(model.input, inputs)


def as_array(value):
    """The numbers of a tensor of any framework; bfloat16, which NumPy lacks, as float32."""
    array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def check(folder):
    """Opens every file that `back` wrote. Where that gives other numbers, this Keras must fail at its own file, too."""
    keras, compute = other_keras()
    count = failed = 0
    for stem, paths in numbers_of(folder):
        with np.load(stem + ".npz", allow_pickle=False) as arrays:
            inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")

        for path in paths:
            count += 1
            home = os.path.join(folder, "back", os.path.basename(path))
            wrong = wrong_with(keras, compute, home, inputs, expected)
            if wrong is None:
                continue
            if os.path.exists(home) and wrong_with(keras, compute, path, inputs, expected) is not None:
                told("this Keras fails at its own file, too: " + path, wrong)
            else:
                failed += 1
                told(home, wrong)
    print(f"{count} files, {failed} that don't come home")
    return 1 if failed else 0


def wrong_with(keras, compute, path, inputs, expected):
    """What is raised where a file doesn't open or gives other numbers; None where it is right."""
    try:
        keras.backend.clear_session()
        compare(compute(keras.models.load_model(path, compile=False), inputs), expected)
    except Exception as wrong:
        return wrong
    return None


def compare(results, expected):
    """Raises AssertionError where numbers differ."""
    assert len(results) == len(expected), f"{len(results)} outputs, expected {len(expected)}"
    for index, want in enumerate(expected):
        got = as_array(results[index])
        assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
        if want.dtype.kind not in "fiub":
            assert np.array_equal(got, want), "other texts"
            continue
        finite = np.abs(want[np.isfinite(want)])
        size = max(1.0, float(finite.max()) if finite.size else 1.0)
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * size)


def main(what, folder, *rest):
    """Runs one of the three steps."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return {"make": make, "back": back, "check": check}[what](folder, *rest)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
