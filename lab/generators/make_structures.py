"""Builds and saves random graphs with another Keras: `make -C lab structures PEER=PYTHON COUNT=100 SEED=0`.

    PYTHONPATH=lab/generators PYTHON lab/generators/make_structures.py FOLDER [COUNT [FIRST_SEED]]    # alone

PYTHON has TensorFlow 2 (and so tf.keras), or Keras 2.2 or 2.3 on TensorFlow 1. Each model is saved as `<seed>.h5`, from
Keras 2.13 on also as `<seed>.keras`, by tf.keras also as the SavedModel folder `<seed>_saved`, and for two of three
seeds also as a folder with `model.json` and weights, in HDF5 or as a checkpoint of TensorFlow (`<seed>_checkpoint`).
`<seed>.npz` holds inputs and Keras's outputs: `input_<i>` and `output_<i>`. `compare_structures.py` reads them.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf

if tf.__version__.startswith("2."):
    keras = tf.keras
else:
    tf = None  # type: ignore[assignment]
    import keras

from random_structures import StructureMaker


def example(maker, tensor, random):
    """Data for an input: ids and sequences are padded with zeros."""
    rows, *lengths = maker.shape(tensor)
    shape = (rows or 3, *(5 if length is None else length for length in lengths))
    kind = maker.dtype(tensor)
    if kind == "bool":
        values = random.rand(*shape) < 0.7
        values[:, 0] = True
        return values
    values = random.randint(0, 7, shape) if kind == "int32" else random.standard_normal(shape)
    if kind == "int32" or (len(shape) == 3 and random.rand() < 0.5):
        for row in values:
            row[random.randint(1, len(row) + 1) :] = 0
    return values.astype(kind)


def randomise(model, random):
    """Weights that are no zeros and ones, so that a swapped one shows."""
    values = [0.6 * random.standard_normal(value.shape) for value in model.get_weights()]
    variances = ["variance" in weight.name for weight in model.weights]
    model.set_weights([np.abs(v) + 0.3 if variances[i] else v for i, v in enumerate(values)])


def numbers(maker, model, inputs):
    """What Keras gives: in flat order, as the inputs are."""
    if not tf:
        return [np.asarray(value) for value in maker.flat(model.predict_on_batch(inputs))]
    packed = tf.nest.pack_sequence_as(model.input, inputs)
    return [value.numpy() for value in maker.flat(model(packed, training=False))]


def save_for_tensorflow(model, stem, with_checkpoint):
    """Saves a SavedModel folder, unless TensorFlow can't write that of this model, and a checkpoint beside a config."""
    try:
        model.save(stem + "_saved", save_format="tf", include_optimizer=False)
    except Exception as wrong:
        shutil.rmtree(stem + "_saved", ignore_errors=True)
        print(f"{stem}: no folder: {type(wrong).__name__}: {str(wrong)[:80]}", flush=True)
    if with_checkpoint:
        os.makedirs(stem + "_checkpoint", exist_ok=True)
        with open(os.path.join(stem + "_checkpoint", "model.json"), "w") as file:
            file.write(model.to_json())
        model.save_weights(os.path.join(stem + "_checkpoint", "model"), save_format="tf")


def write(seed, folder):
    """Writes one model. Raises what Keras raises where it can't."""
    keras.backend.clear_session()
    random = np.random.RandomState(seed)
    maker = StructureMaker(keras, seed, tf)
    model = maker.model()
    randomise(model, random)
    stem = os.path.join(folder, str(seed))
    model.save(stem + ".h5", include_optimizer=False)
    if not tf:
        # It leaves inputs out that no output needs: the numbers are those of the file.
        keras.backend.clear_session()
        model = keras.models.load_model(stem + ".h5", compile=False)
    elif hasattr(keras, "saving"):
        model.save(stem + ".keras")
    if tf:
        save_for_tensorflow(model, stem, with_checkpoint=seed % 3 == 1)
    if seed % 3 == 0:
        os.makedirs(stem, exist_ok=True)
        with open(os.path.join(stem, "model.json"), "w") as file:
            file.write(model.to_json())
        model.save_weights(os.path.join(stem, "model.h5" if seed % 2 or not tf else "model.weights.h5"))
    inputs = [example(maker, tensor, random) for tensor in model.inputs]
    arrays = {f"input_{i}": array for i, array in enumerate(inputs)}
    arrays.update({f"output_{i}": array for i, array in enumerate(numbers(maker, model, inputs))})
    np.savez(stem + ".npz", **arrays)


def main(folder, count, first):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.makedirs(folder, exist_ok=True)
    failed = 0
    for seed in range(first, first + count):
        try:
            write(seed, folder)
        except Exception as wrong:
            failed += 1
            print(f"seed {seed}: {type(wrong).__name__}: {str(wrong)[:150]}", flush=True)
    made_by = f"tf.keras {tf.__version__}" if tf else f"Keras {keras.__version__}"
    print(f"{made_by}: {count - failed} models, {failed} that it can't make or write")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100, int(sys.argv[3]) if len(sys.argv) > 3 else 0)
