"""Converting model files to other formats, for `convert`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerserve_server.importing.imports import temporary_imports
from layerserve_server.inference.runner import load_model

if TYPE_CHECKING:
    from layergraph import Model
    from layergraph.models.export import Exported


def convert(
    source: Path, target: Path, *, format: str | None, opset: int | None, tolerance: float | None, force: bool
) -> Exported:
    """Converts the model file or version folder `source` to the file `target`. See `layergraph.Model.export`.

    The source is opened as a server opens it: read by another process, and with the golden file beside it, whose
    inputs are also compared. Arguments are checked before it is, which may take long. Raises OSError, FileExistsError
    without `force`, ConfigError if the target is the source, and layergraph's errors.
    """
    from layergraph.archive.finding import find_model
    from layergraph.errors import ConfigError
    from layergraph.golden import golden_inputs, golden_path
    from layergraph.models.export import check_arguments

    check_arguments(target, format, opset=opset, tolerance=tolerance, overwrite=force)
    found = find_model(source)
    if target.exists() and target.samefile(found):
        raise ConfigError(f"'{target}' is the model file itself, expected another path")
    with temporary_imports() as imports:
        model = cast("Model", load_model(found, imports.load))
    proof = golden_path(found)
    examples: list[Mapping[str, Any]] = [golden_inputs(model, proof)] if os.path.lexists(proof) else []
    return model.export(target, format, opset_version=opset, tolerance=tolerance, overwrite=force, examples=examples)
