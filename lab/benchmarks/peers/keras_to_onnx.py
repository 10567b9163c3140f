"""Converts a model to ONNX as users of Keras on TensorFlow do, by tf2onnx: keras_to_onnx.py FILE.keras FILE.onnx.

Runs in an environment with TensorFlow, Keras and tf2onnx.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np

#: What ONNX Runtime and OpenVINO both read.
OPSET = 17

model = keras.models.load_model(sys.argv[1], compile=False)
# A loaded model is exported only after a call.
model([np.zeros([length or 1 for length in tensor.shape], tensor.dtype) for tensor in model.inputs])
model.export(sys.argv[2], "onnx", verbose=False, opset_version=OPSET)
