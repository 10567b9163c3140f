"""Times other engines on one model file: run by bench_compute in a venv that has them.

    python compute_peers.py MODEL.keras INPUTS.npz SECONDS

Prints one JSON object: engine -> [p50 in milliseconds, largest difference to Keras's outputs].
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from bench_timing import p50


def main(path: str, data: str, seconds: float) -> None:
    """Measures TensorFlow, ONNX Runtime and OpenVINO, those of them that are installed."""
    model = keras.models.load_model(path, compile=False)
    arrays = dict(np.load(data))
    inputs = [arrays[tensor.name] for tensor in model.inputs]
    structure = inputs if len(inputs) > 1 else inputs[0]
    function = tf.function(lambda *given: model(list(given) if len(given) > 1 else given[0], training=False))
    tensors = [tf.constant(array) for array in inputs]
    expected = [np.asarray(t) for t in tf.nest.flatten(function(*tensors))]
    results = {
        "keras_tensorflow": [p50(lambda: model.predict_on_batch(structure), seconds), 0.0],
        "tensorflow": [p50(lambda: [np.asarray(t) for t in tf.nest.flatten(function(*tensors))], seconds), 0.0],
    }

    def difference(outputs: list[Any]) -> float:
        return max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(outputs, expected, strict=True))

    try:
        import onnxruntime
        import tf2onnx

        signature = [
            tf.TensorSpec([None, *array.shape[1:]], array.dtype, name=f"x{i}") for i, array in enumerate(inputs)
        ]
        proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {entry.name: array for entry, array in zip(session.get_inputs(), inputs, strict=True)}
        results["onnxruntime"] = [p50(lambda: session.run(None, feed), seconds), difference(session.run(None, feed))]
    except Exception as error:
        print(f"onnxruntime: {error}", file=sys.stderr)
    else:
        try:
            import openvino

            core = openvino.Core()
            compiled = core.compile_model(
                openvino.convert_model(_saved(proto)),
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "2")),
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",
                },
            )
            request = compiled.create_infer_request()
            answer = request.infer(inputs)
            got = [answer[i] for i in range(len(expected))]
            results["openvino"] = [p50(lambda: request.infer(inputs), seconds), difference(got)]
        except Exception as error:
            print(f"openvino: {error}", file=sys.stderr)
    print(json.dumps(results))


def _saved(proto: Any) -> str:
    """The ONNX model as a file, which is what OpenVINO reads."""
    with tempfile.NamedTemporaryFile(suffix=".onnx", delete=False) as file:
        file.write(proto.SerializeToString())
    return file.name


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
