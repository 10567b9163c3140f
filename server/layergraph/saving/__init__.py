"""Saving models to files that stock Keras loads, and the positions of weights in files.

Way in: `model_file.save_model`. `formats` chooses the format, `graph_config` and `compile_object` write the configs,
`layouts` the places of weights; `legacy_h5` and `keras2/` are for the older formats. Loading uses the same places:
`stored_weights.load_weights`. Also has the functions of keras.saving that plugins use.
"""

from layergraph.plugins import custom_object_scope, register_keras_serializable
from layergraph.saving.objects import deserialize_keras_object, serialize_keras_object

__all__ = [
    "custom_object_scope",
    "deserialize_keras_object",
    "register_keras_serializable",
    "serialize_keras_object",
]
