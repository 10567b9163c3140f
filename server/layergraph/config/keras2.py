"""Configs of Keras 2: conversions beyond the tables."""

from __future__ import annotations

from typing import Any, Final

#: What tf.keras of TensorFlow 2.3 to 2.5 writes as the key of a Hashing that has none.
_NO_SALT: Final = [0xDECAFCAFFE, 0xDECAFCAFFE]
#: Class -> its option since tf_keras 2.21 that a large negative number takes the place of masked scores, to which it is
#: added otherwise.
_ROBUST: Final = {"MultiHeadAttention": "softmax_robust_masking", "Softmax": "robust_masking"}


def adapt(kind: str, config: dict[str, Any]) -> None:
    """Converts a layer's config, with keys already renamed, to Keras 3's values."""
    axis = config.get("axis")
    if kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    # Old configs give an Embedding the dtype of its input.
    if kind == "Embedding" and isinstance(config.get("dtype"), str) and config["dtype"].startswith(("int", "uint")):
        config["dtype"] = "float32"
    if kind == "TextVectorization" and config.get("max_tokens") is None:
        # TensorFlow 2.3 pads to no number by default.
        config["pad_to_max_tokens"] = False
    # Up to 2.8, hashes are integers whatever the layer's type, which in graphs of TensorFlow 1 is that of its input.
    no_integer = isinstance(config.get("dtype"), str) and config["dtype"].startswith(("float", "string"))
    if kind == "Hashing" and no_integer and config.get("output_mode", "int") == "int":
        config["dtype"] = "int64"
    # Keras itself takes it for a key when it opens the file, and hashes differently from the model that was trained and
    # from the graph that TensorFlow Serving runs. Since 2.8 there is `output_mode`.
    if kind == "Hashing" and config.get("salt") == _NO_SALT and "output_mode" not in config:
        config["salt"] = None
    robust = _ROBUST.get(kind)
    if robust is not None and isinstance(config.get(robust), bool) and config.pop(robust):
        config["mask_rule"] = "robust"
    if kind == "InputLayer":
        config.pop("trainable", None)
        if config.get("batch_shape") is None and isinstance(config.get("input_shape"), list):
            config["batch_shape"] = [None, *config.pop("input_shape")]
