"""What layers do with masks, where releases of Keras 2 differ from Keras 3.

Found by asking every layer of TensorFlow 1.13 to 2.15 and Keras 2.3.1 for `supports_masking` and the arguments of
`call`: tests/fixtures/make_mask_use.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Values of a layer's option `mask_use`: as in Keras 3; neither used nor passed on; passed on, but not used; used, but
#: not passed on.
MASK_USES: Final = ("keras3", "none", "passed", "used")

_LAST: Final = 99

#: Class -> the last minor version of tf.keras in which it treats masks in this way.
_TF_KERAS: Mapping[str, tuple[int, str]] = {
    "Identity": (_LAST, "none"),
    "Normalization": (_LAST, "none"),
    "Rescaling": (_LAST, "none"),
    "SpectralNormalization": (_LAST, "none"),
    "BatchNormalization": (11, "passed"),
    "MultiHeadAttention": (9, "none"),
    "ReLU": (4, "none"),
    "Softmax": (3, "passed"),
}

#: Class -> what multi-backend Keras 2 does.
MULTI_BACKEND: Mapping[str, str] = {"BatchNormalization": "passed", "Softmax": "passed"}


def tf_keras_masks(minor: int) -> dict[str, str]:
    """Class -> `mask_use` in tf.keras 2.`minor`, without the layers that are as in Keras 3."""
    return {name: use for name, (last, use) in _TF_KERAS.items() if minor <= last}
