"""The client half of compare_tensorflow_serving.py, for a Python with TensorFlow and tensorflow-serving-api.

tensorflow_client.py make FOLDER      models of this Python's Keras, each with TensorFlow's export of it
tensorflow_client.py ask PORT FOLDER  asks for all of them, and with the arrays of FOLDER/inputs.npz ("model/input");
                                      writes FOLDER/answers.npz ("model/kind/output"), and prints findings as JSON
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow_contents import contents

SECONDS = 60
KEY = "serving_default"


# Models and exports.


def models():
    """Yields models with their names: all ways to inputs and outputs that have names of their own."""
    from tensorflow import keras

    L, Input, Model = keras.layers, keras.Input, keras.Model  # noqa: N806
    keras.backend.clear_session()
    yield "sequential", keras.Sequential([Input((4,)), L.Dense(3), L.Dense(2)])
    built = keras.Sequential([L.Dense(3), L.Dense(2)])
    built.build((None, 4))
    yield "built", built
    yield "named", keras.Sequential([Input((4,), name="Rows"), L.Dense(2, name="Out")])
    x, dense = Input((4,)), L.Dense(4, name="d")
    other = L.Dense(2, name="d_1")(x)
    yield "shared", Model(x, [dense(x), dense(dense(x)), other])
    x = Input((4,), name="a")
    same = dense(x)
    yield "twice", Model(x, [same, same])
    yield "identity", Model(x, [x, L.Dense(1, name="o-p.q")(x)])
    a, b = Input((4,), name="a"), Input((3,), name="b")
    yield "dict", Model([b, a], {"p": L.Dense(1, name="q")(a), "o": L.Dense(2, name="s")(b)})
    yield "dict_of_inputs", Model({"v": a, "u": b}, L.Dense(1, name="o")(L.concatenate([a, b])))
    first, second = Input((4,)), Input((4,))
    yield "unnamed", Model([second, first], [L.Dense(1, name="q")(first), L.Subtract()([first, second])])
    inner = Model(a, [L.Dense(2, name="i1")(a), L.Dense(3, name="i2")(a)], name="inner")
    yield "nested", Model(first, inner(first))
    sequence = Input((None, 5), name="seq")
    yield "states", Model(sequence, L.LSTM(4, return_sequences=True, return_state=True, name="l")(sequence))
    ids = Input((3,), dtype="int32", name="ids")
    yield "integers", Model(ids, L.Embedding(10, 4, name="e")(ids))


def make(folder: Path) -> None:
    """Writes each model to models/NAME/1, and its export to exports/NAME; of Keras 3 also that of the loaded file."""
    from tensorflow import keras

    three = getattr(keras, "__version__", "2").startswith("3")
    for name, model in models():
        model_folder, export = folder / "models" / f"{'k3' if three else 'k2'}_{name}" / "1", folder / "exports"
        model_folder.mkdir(parents=True)
        if three:
            model.save(model_folder / "model.keras")
            model.export(str(export / f"k3_{name}"), verbose=False)
            keras.models.load_model(model_folder / "model.keras").export(
                str(export / f"k3_{name}.loaded"), verbose=False
            )
        else:
            model.save(model_folder, save_format="tf")
            model.save(export / f"k2_{name}", save_format="tf")
            (folder / "models" / f"k2_{name}_h5" / "1").mkdir(parents=True)
            model.save(folder / "models" / f"k2_{name}_h5" / "1" / "model.h5")


# Questions.


class Asker:
    """Asks a server by the stubs of tensorflow-serving-api."""

    def __init__(self, port: str) -> None:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, model, inputs, outputs=(), **spec):
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = model
        if "version" in spec:
            request.model_spec.version.value = spec.pop("version")
        for key, value in spec.items():
            setattr(request.model_spec, key, value)
        for name, given in inputs.items():
            request.inputs[name].CopyFrom(given if isinstance(given, PROTO) else tf.make_tensor_proto(given))
        reply = self.predictions.Predict(request, timeout=SECONDS)
        assert reply.model_spec.name == model
        assert reply.model_spec.version.value == 1
        return {name: tf.make_ndarray(tensor) for name, tensor in reply.outputs.items()}

    def signatures(self, model):
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        reply = self.predictions.GetModelMetadata(request, timeout=SECONDS)
        found = get_model_metadata_pb2.SignatureDefMap()
        assert reply.metadata["signature_def"].Unpack(found)
        return found.signature_def

    def states(self, model):
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        reply = self.models.GetModelStatus(request, timeout=SECONDS)
        return [[one.version, one.state, one.status.error_code] for one in reply.model_version_status]


PROTO = type(tf.make_tensor_proto(0.0))


def in_values(array):
    """A tensor whose numbers are in the field of its dtype, as clients in other languages send it."""
    message = tf.make_tensor_proto(array)
    fields = {np.float32: "float_val", np.float64: "double_val", np.int32: "int_val", np.int64: "int64_val"}
    field = fields.get(array.dtype.type)
    if field is not None:
        message.tensor_content = b""
        getattr(message, field)[:] = array.ravel().tolist()
    return message


def ask(port: str, folder: Path) -> None:
    asker, answers = Asker(port), {}
    given: dict[str, dict[str, np.ndarray]] = {}
    for key, array in np.load(folder / "inputs.npz").items():
        model, name = key.split("/", 1)
        given.setdefault(model, {})[name] = array
    for model, inputs in given.items():
        signature = asker.signatures(model)[KEY]
        values = {name: in_values(array) for name, array in inputs.items()}
        kinds = {
            "content": asker.predict(model, inputs),
            "again": asker.predict(model, inputs, signature_name=KEY, version=1),
            "values": asker.predict(model, values),
            "reversed": asker.predict(model, dict(reversed(inputs.items()))),
            "filter": asker.predict(model, inputs, outputs=sorted(signature.outputs)[:1], signature_name="serve"),
        }
        answers |= {f"{model}/{kind}/{name}": array for kind, outs in kinds.items() for name, array in outs.items()}
    np.savez(folder / "answers.npz", **answers)
    problems: list[str] = []
    compared = [compare(asker, path, problems) for path in sorted((folder / "exports").glob("*"))]
    facts = {
        "compared": sum(compared),
        "problems": problems,
        "states": {model: asker.states(model) for model in given},
        "errors": errors(asker, next(iter(given))),
        "described": described(),
    }
    print(json.dumps(facts))


def compare(asker: Asker, path: Path, problems: list[str]) -> int:
    """Compares names and numbers with those of TensorFlow's export. Returns the number of outputs compared."""
    name = path.name.removesuffix(".loaded")
    count = 0
    for model in (name, f"{name}_h5") if name.startswith("k2_") else (name,):
        real = tf.saved_model.load(str(path)).signatures
        ours = asker.signatures(model)
        if set(ours) != set(real):
            problems.append(f"{path.name}: signatures {sorted(ours)}, TensorFlow has {sorted(real)}")
        for key in real:
            specs = real[key].structured_input_signature[1]
            # The program that made a model of Keras 3 exports its inputs without a name as keras_tensor.
            if not any(spec.startswith("keras_tensor") for spec in specs) and set(ours[key].inputs) != set(specs):
                problems.append(f"{path.name}: inputs {sorted(ours[key].inputs)}, TensorFlow has {sorted(specs)}")
            draw = np.random.default_rng(0)
            inputs = {
                input: draw.integers(0, 9, [2 if length is None else length for length in spec.shape]).astype(
                    spec.dtype.as_numpy_dtype
                )
                for input, spec in specs.items()
            }
            expected = real[key](**{input: tf.constant(array) for input, array in inputs.items()})
            got = asker.predict(model, inputs, signature_name=key)
            if set(got) != set(expected) or set(ours[key].outputs) != set(expected):
                problems.append(f"{path.name}: outputs {sorted(got)}, TensorFlow has {sorted(expected)}")
                continue
            for output, tensor in expected.items():
                array = tensor.numpy()
                count += 1
                if got[output].shape != array.shape or not np.allclose(got[output], array, rtol=1e-5, atol=1e-5):
                    problems.append(f"{path.name}: output '{output}' differs")
    return count


def errors(asker: Asker, model: str) -> dict[str, str]:
    """The statuses of calls that TensorFlow Serving refuses."""
    import grpc
    from tensorflow_serving.apis import classification_pb2

    calls = {
        "model": lambda: asker.predict("unknown", {}),
        "version": lambda: asker.predict(model, {}, version=99),
        "signature": lambda: asker.predict(model, {}, signature_name="unknown"),
        "inputs": lambda: asker.predict(model, {"unknown": np.zeros(2)}),
        "status": lambda: asker.states("unknown"),
        "classify": lambda: asker.predictions.Classify(classification_pb2.ClassificationRequest(), timeout=SECONDS),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "OK"
        except grpc.RpcError as error:
            found[name] = error.code().name
    return found


def described() -> dict[str, list]:
    """Number and type of every field and enum value, and the messages of every method, by full name."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from tensorflow_serving.apis import get_model_metadata_pb2, model_service_pb2, prediction_service_pb2

    found: dict[str, list] = {}
    seen = set()

    def walk(file):
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            walk(dependency)
        content = FileDescriptorProto()
        file.CopyToProto(content)
        found.update(contents(content))

    for module in (prediction_service_pb2, model_service_pb2, get_model_metadata_pb2):
        walk(module.DESCRIPTOR)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        ask(sys.argv[2], Path(sys.argv[3]))
