"""Options that releases of Keras 3 after 3.0 have added to classes of earlier ones.

Earlier releases refuse a file that names one of them. So files leave them out where they have their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOOKUP = {"oov_method": "floormod", "salt": None}
_CROSSENTROPY = {"axis": -1, "ignore_class": None}

#: Class -> its later options and their defaults.
LATER: Mapping[str, Mapping[str, Any]] = {
    "IntegerLookup": _LOOKUP,
    "StringLookup": _LOOKUP,
    "SparseCategoricalCrossentropy": _CROSSENTROPY,
    "SparseTopKCategoricalAccuracy": {"from_sorted_ids": False},
}


def without_later_defaults(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a class without options that only later releases have, if they have their defaults."""
    later = LATER.get(class_name, {})
    return {key: value for key, value in config.items() if key not in later or value != later[key]}
