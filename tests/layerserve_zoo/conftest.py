"""The oracle is stock Keras on torch; it must be told so before it is imported."""

import os

os.environ["KERAS_BACKEND"] = "torch"
