"""Errors in Triton's words, which its clients and their tests compare."""

from __future__ import annotations

from layerserve_server.errors import ServerError, UnknownModelError, UnknownVersionError


def in_tritons_words(error: ServerError) -> str | None:
    """Returns the text of an error as Triton has it, with our hint; None if its text may be any."""
    hint = ""
    if isinstance(error, UnknownModelError) and error.model:
        text, hint = f"Request for unknown model: '{error.model[:80]}' is not found", error.hint
    elif isinstance(error, UnknownVersionError) and error.model:
        text = f"Request for unknown model: '{error.model[:80]}' version {error.version} is not found"
        hint = error.hint
    else:
        return None
    return f"{text}; {hint}" if hint else text
