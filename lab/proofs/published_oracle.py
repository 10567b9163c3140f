"""The part of `compare_published.py` that stock Keras runs, under the interpreter of any Keras from 2.0 on.

    PYTHON lab/proofs/published_oracle.py JOBS.json RESULTS

JOBS is a list of [model, inputs.npz]. For the i-th, RESULTS/i.npz gets the model's outputs and the output of each layer
that is called once. A model that this Keras can't read has no file.
"""

import json
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402
import numpy as np  # noqa: E402


def custom_objects():
    """What the packages define around their models."""
    layers, backend = keras.layers, keras.backend

    class SqueezeLayer(layers.Layer):
        def __init__(self, axis=-1, **options):
            super().__init__(**options)
            self.axis = axis

        def call(self, x):
            return backend.squeeze(x, self.axis)

        def compute_output_shape(self, shape):
            shape = list(shape)
            del shape[self.axis]
            return tuple(shape)

    class ReversedLSTM(layers.LSTM):
        def call(self, *args, **options):
            return backend.reverse(super().call(*args, **options), 1)

    class ConvDNA(layers.Conv1D):
        def __init__(self, *args, seq_length=None, **options):
            super().__init__(*args, **options)

    class GlobalAveragePooling1D_Mask0(layers.Layer):  # noqa: N801
        def __init__(self, data_format="channels_last", **options):
            super().__init__(**options)

        def call(self, inputs):
            x, steps = inputs
            mask = backend.max(steps, 2, keepdims=True)
            return backend.sum(x * mask, 1) / backend.maximum(backend.sum(mask, 1), backend.epsilon())

        def compute_output_shape(self, shapes):
            return (shapes[0][0], shapes[0][2])

    def clipped_leaky_relu(x):
        return keras.activations.relu(x, alpha=0.1, max_value=20.0)

    classes = [SqueezeLayer, ReversedLSTM, ConvDNA, GlobalAveragePooling1D_Mask0]
    return dict({made.__name__: made for made in classes}, **{"<lambda>": clipped_leaky_relu})


def load(path):
    """A whole model, an architecture with weights of the same name beside it, or one of TensorFlow.js."""
    custom = custom_objects()
    if path.endswith(".json"):
        return load_shards(path)
    config = os.path.splitext(path)[0] + ".json"
    if not path.endswith(".keras") and os.path.exists(config):
        with open(config) as file:
            model = keras.models.model_from_json(file.read(), custom_objects=custom)
        model.load_weights(path)
        return model
    return keras.models.load_model(path, custom_objects=custom, compile=False)


def load_shards(path):
    """As TensorFlow.js reads it: weights by their names."""
    with open(path) as file:
        whole = json.load(file)
    model = keras.models.model_from_json(json.dumps(whole["modelTopology"]["model_config"]))
    values = {}
    for group in whole["weightsManifest"]:
        data = b"".join((Path(path).parent / shard).read_bytes() for shard in group["paths"])
        for entry in group["weights"]:
            rule = entry.get("quantization")
            kind, size = (rule or entry)["dtype"], int(np.prod(entry["shape"]))
            stored = np.frombuffer(data, kind, size).reshape(entry["shape"])
            data = data[stored.nbytes :]
            values[entry["name"]] = stored * rule["scale"] + rule["min"] if rule else stored
    model.set_weights([values[weight.name.split(":")[0]] for weight in model.weights])
    return model


def called_once(model):
    """Name and output of the layers that have one output and were called once."""
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        try:
            output = layer.output
        except Exception:
            continue
        if not isinstance(output, (list, tuple, dict)) and len(layer._inbound_nodes) == 1:
            yield layer.name, output


def flat(value):
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, (list, tuple)) else [value]


def answer(model, given, result):
    with np.load(given) as arrays:
        inputs = [arrays[f"input_{index}"] for index in range(len(arrays.files))]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    outputs = flat(model.predict_on_batch(inputs))
    found = {f"output_{index}": np.asarray(value) for index, value in enumerate(outputs)}
    layers = dict(called_once(model))
    inner = flat(keras.models.Model(model.inputs, list(layers.values())).predict_on_batch(inputs))
    found.update((f"layer_{name}", np.asarray(inner[index])) for index, name in enumerate(layers))
    np.savez(result, **found)


def main(jobs, results):
    with open(jobs) as file:
        jobs = json.load(file)
    for index, (path, given) in enumerate(jobs):
        try:
            answer(load(path), given, os.path.join(results, f"{index}.npz"))
        except Exception as wrong:
            text = str(wrong)[:200].replace("\n", " ")
            print(f"{path}: {type(wrong).__name__}: {text}", flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main(*sys.argv[1:])
