"""Errors of torch in plain words: torch's own texts name its functions, and change with its releases."""

from __future__ import annotations

import re

#: Parts of torch's texts about memory.
_MEMORY = r"alloc|out of memory|overflow|Storage size"

#: Patterns of torch's texts, and what they mean, in order.
_MEANINGS = (
    (rf"{_MEMORY}|too large", "a tensor would be too large for the memory"),
    (r"[Dd]imension out of range|tuple index out of range|dimension specified as", "an axis is out of range"),
    (r"broadcast|must match|expand|same size|mismatch", "lengths of axes differ"),
    (
        r"cannot be multiplied|inconsistent tensor size|[Ee]xpected size|subscript",
        "lengths of axes don't fit",
    ),
    (r"invalid for input of size|shape .* is invalid", "the number of elements doesn't fit the new shape"),
    (r"[Kk]ernel size|output size is too small|non-zero size|[Pp]adding size", "an axis is too short"),
    (r"must be Tensor|has no attribute|argument", "an argument is missing or of the wrong kind"),
    (r"dtype|[Ff]loat|[Ll]ong|[Bb]ool|not implemented for|[Ii]nteger", "a dtype isn't supported"),
    (r"[Dd]imension|rank|[0-9]D|dim", "the number of axes doesn't fit"),
)


def meaning(error: Exception) -> str:
    """Returns what an error that torch or Python raised for the arguments of a call means."""
    text = str(error)
    return next((words for pattern, words in _MEANINGS if re.search(pattern, text)), "its arguments don't fit")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a tensor was too large for the memory, or for any."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search(_MEMORY, str(error)) is not None
    )
