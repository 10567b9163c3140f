"""Stock Keras on torch is the oracle."""

import os

os.environ["KERAS_BACKEND"] = "torch"
