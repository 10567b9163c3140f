"""Errors that clients of TensorFlow Serving compare."""

from __future__ import annotations

import pytest
from layerserve_server.errors import InvalidRequestError, UnknownModelError, UnknownVersionError
from layerserve_server.extensions.tensorflow_serving.words import in_tensorflow_servings_words


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnknownModelError("any", "m"), "Servable not found for request: Latest(m)"),
        (UnknownModelError("any", "m", "known: n"), "Servable not found for request: Latest(m); known: n"),
        (UnknownVersionError("any", "m", 7, "it has 1"), "Servable not found for request: Specific(m, 7); it has 1"),
        (UnknownModelError("a label"), None),
        (InvalidRequestError("any"), None),
    ],
)
def test_a_missing_model_is_a_servable_that_was_not_found(error, text):
    assert in_tensorflow_servings_words(error) == text
