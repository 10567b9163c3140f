"""Writes the proof beside a model file, with Keras: `python make_golden.py MODEL_FILE GOLDEN_NPZ`.

Where it lies as `golden.npz` in a version folder, layerserve serves the version only if it answers the same.
"""

import sys

import keras
import numpy as np

model = keras.models.load_model(sys.argv[1], compile=False)
random = np.random.default_rng(0)
inputs = [(2 * random.random([2, *(n or 8 for n in x.shape[1:])])).astype(x.dtype) for x in model.inputs]
outputs = keras.tree.flatten(model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0]))
arrays = {f"input/{x.name}": a for x, a in zip(model.inputs, inputs, strict=True)}
arrays |= {f"output/{index}": np.asarray(a) for index, a in enumerate(outputs)}
np.savez(sys.argv[2], rtol=1e-4, atol=1e-5, **arrays)
