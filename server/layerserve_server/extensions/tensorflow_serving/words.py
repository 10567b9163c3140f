"""Errors in TensorFlow Serving's words: clients take "Servable" in the error of an unknown model as "it is ready"."""

from __future__ import annotations

from layerserve_server.errors import ServerError, UnknownModelError, UnknownVersionError


def in_tensorflow_servings_words(error: ServerError) -> str | None:
    """Returns the text of an error as TensorFlow Serving has it, with our hint; None if its text may be any."""
    if isinstance(error, UnknownModelError) and error.model:
        which = f"Latest({error.model[:80]})"
    elif isinstance(error, UnknownVersionError) and error.model:
        which = f"Specific({error.model[:80]}, {error.version})"
    else:
        return None
    text = f"Servable not found for request: {which}"
    return f"{text}; {error.hint}" if error.hint else text
