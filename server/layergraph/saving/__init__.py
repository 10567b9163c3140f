"""Models -> files that stock Keras opens; and where in a file each weight lies.

The names of keras.saving that a plugin needs are here, too.
"""

from layergraph.plugins import custom_object_scope, register_keras_serializable

__all__ = ["custom_object_scope", "register_keras_serializable"]
