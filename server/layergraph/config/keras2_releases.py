"""What layers do where releases of Keras 2 differ: with masks, with images.

Found by asking every layer of TensorFlow 1.13 to 2.15 and Keras 2.3.1 for `supports_masking` and the arguments of
`call`: lab/fixtures/make_mask_use.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Values of a layer's option `mask_use` in Keras 3: as in the latest release; without the masks of tensors that the
#: layer casts (3.5 to 3.13); the input's own mask is passed on, also where another is given as argument (up to 3.10).
UNCAST: Final = frozenset({"uncast", "own_uncast"})
PASSES_OWN: Final = frozenset({"own", "own_uncast"})
KERAS3_USES: Final = UNCAST | PASSES_OWN | {"keras3"}
#: All values: in Keras 2, neither used nor passed on; passed on, but not used; used, but not passed on.
MASK_USES: Final = KERAS3_USES | {"none", "passed", "used"}

_LAST: Final = 99
_RANDOM: Final = tuple(
    f"Random{what}" for what in ("Brightness", "Contrast", "Flip", "Height", "Rotation", "Translation", "Width", "Zoom")
)

#: Class -> the last minor version of tf.keras in which it treats masks in this way.
_TF_KERAS: Mapping[str, tuple[int, str]] = {
    "Identity": (_LAST, "none"),
    "Normalization": (_LAST, "none"),
    "Rescaling": (_LAST, "none"),
    "BatchNormalization": (11, "passed"),
    "MultiHeadAttention": (9, "none"),
    "ReLU": (4, "none"),
    "Softmax": (3, "passed"),
    # In inference they return the tensor that they are given, with its mask.
    **dict.fromkeys(_RANDOM, (_LAST, "passed")),
}

#: Class -> the last minor version in which it may crop everything away.
_CROPS: Mapping[str, tuple[int, str]] = dict.fromkeys(("Cropping1D", "Cropping2D"), (6, "keras2"))

#: Class -> options in multi-backend Keras 2: its Bidirectional doesn't zero masked timesteps, its resizing places
#: pixels at corners.
MULTI_BACKEND: Mapping[str, Mapping[str, str]] = {
    "Bidirectional": {"mask_rule": "keras2"},
    "UpSampling2D": {"image_rule": "corner"},
    "BatchNormalization": {"mask_use": "passed"},
    "Softmax": {"mask_use": "passed"},
    **{name: {"crop_rule": "keras2"} for name in _CROPS},
}

#: Minor versions in which a Sequential without an input shape passes None as mask to the call of its first layer, if
#: that call takes a mask: those of TensorFlow 1.13 to 2.2.
HIDE_MASK: Final = frozenset({2, 3})
TAKES_MASK: Final = frozenset(
    {"SimpleRNN", "LSTM", "GRU", "RNN", "ConvLSTM2D", "Bidirectional", "TimeDistributed", "GlobalAveragePooling1D"}
)

#: Class -> the last minor version in which it computes with images in another way than the later ones.
_IMAGES: Mapping[str, tuple[int, str]] = {"RandomCrop": (6, "shorter_side")}
#: TensorFlow 2.3 and 2.4 both write 2.4; only the latter's Softmax uses a mask, and fails if it doesn't fit.
_MASK_RULES: Mapping[str, tuple[int, str]] = {"Softmax": (4, "fitting")}
#: The minor version whose Discretization has its boundaries as a weight. TensorFlow 2.3 and 2.4 differ in the config.
_STORED_BINS: Final = 5


def tf_keras_rules(minor: int) -> dict[str, dict[str, str]]:
    """Class -> options in tf.keras 2.`minor`, without the layers that are as in 2.15 (images) and Keras 3 (masks)."""
    rules: dict[str, dict[str, str]] = {}
    tables = {"mask_use": _TF_KERAS, "mask_rule": _MASK_RULES, "image_rule": _IMAGES, "crop_rule": _CROPS}
    for key, table in tables.items():
        for name, (last, value) in table.items():
            if minor <= last:
                rules.setdefault(name, {})[key] = value
    if minor == _STORED_BINS:
        rules.setdefault("Discretization", {})["bin_rule"] = "lower_stored"
    return rules
