"""Labels of classes: for an output of a model, a text file with a name for each element of a row, as Triton has it.

A file has a label per line, in UTF-8, in the order of the elements. A blank line is an element without a label; blank
lines at the end don't count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from layerserve_server.errors import UnknownOutputError, VersionFailedError, safe_text
from layerserve_server.inference.runner import ModelRunner
from layerserve_server.repository.layout import FoundVersion

#: Maximum size of a file, and of a label, in bytes. A reply may have a label for every element of an output.
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_LABEL_BYTES: Final = 1024


def read_class_labels(found: FoundVersion, files: Mapping[str, str], runner: ModelRunner) -> dict[str, Sequence[bytes]]:
    """Returns the labels by output. `files` are the names of their files, by output.

    Raises VersionFailedError if the model has no such output, or a file is missing, too large, no text, or doesn't have
    as many labels as rows have elements.
    """
    there = dict(found.class_labels)
    labels: dict[str, Sequence[bytes]] = {}
    for output, file in files.items():
        where = f"class_labels.{safe_text(output, 80)}"
        try:
            (spec,) = runner.plan((output,)).output_specs
        except UnknownOutputError as error:
            raise VersionFailedError(f"{where}: {error}") from error
        if file not in there:
            raise VersionFailedError(f"{where}: no file '{file}' in the version's folder, nor in the model's")
        labels[output] = _read(there[file], where)
        lengths, count = spec.shape[1:], len(labels[output])
        if None not in lengths and (expected := math.prod(length or 0 for length in lengths)) != count:
            raise VersionFailedError(
                f"{where}: '{file}' has {count} labels, expected {expected}, one for each element of a row"
            )
    return labels


def _read(path: Path, where: str) -> list[bytes]:
    """Returns the labels in a file. Raises VersionFailedError."""
    try:
        # Not through a symbolic link, which the fingerprint doesn't follow.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise VersionFailedError(f"{where}: '{path.name}' can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise VersionFailedError(f"{where}: '{path.name}' has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VersionFailedError(f"{where}: '{path.name}' line {line} isn't text in UTF-8") from error
    labels = [line.strip().encode() for line in text.split("\n")]
    while labels and not labels[-1]:
        labels.pop()
    for number, label in enumerate(labels, 1):
        if len(label) > MAX_LABEL_BYTES:
            raise VersionFailedError(
                f"{where}: '{path.name}' line {number} has {len(label)} bytes, expected up to {MAX_LABEL_BYTES}"
            )
    return labels
