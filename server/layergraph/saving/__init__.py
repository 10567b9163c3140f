"""Saving models to files that stock Keras loads, and the positions of weights in files.

Also has the functions of keras.saving that plugins use.
"""

from layergraph.plugins import custom_object_scope, register_keras_serializable
from layergraph.saving.objects import deserialize_keras_object, serialize_keras_object

__all__ = [
    "custom_object_scope",
    "deserialize_keras_object",
    "register_keras_serializable",
    "serialize_keras_object",
]
