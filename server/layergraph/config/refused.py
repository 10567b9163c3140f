"""Classes that are never loaded, or only by a plugin, each with its reason and what to do."""

from __future__ import annotations

from collections.abc import Mapping

_SAVED_AGAIN = "and save the model again"
_CODE = f"holds Python code, which is never run; replace it by layers or operations {_SAVED_AGAIN}"

REFUSED: Mapping[str, str] = {
    "Lambda": f"{_CODE}, or let a plugin replace it (layergraph.plugins.replace_lambda, by the layer's name)",
    "__lambda__": _CODE,
    "TorchModuleWrapper": _CODE,
    "FlaxLayer": _CODE,
    "JaxLayer": _CODE,
    "TFSMLayer": (
        "runs a SavedModel of TensorFlow from a path in the config, which is never opened; "
        f"replace it by the layers of that model {_SAVED_AGAIN}"
    ),
}

_COLUMNS = f"computes feature columns of TensorFlow; replace it by preprocessing layers {_SAVED_AGAIN}"

#: Classes that aren't Keras's, and what to do but to write a plugin.
OUTSIDE: Mapping[str, str] = {
    "KerasLayer": (
        "runs a model of TensorFlow Hub from a path or URL in the config, which is never opened; "
        f"replace it by Keras's layers, such as a model of keras.applications, {_SAVED_AGAIN}"
    ),
    "DenseFeatures": _COLUMNS,
    "SequenceFeatures": _COLUMNS,
}
