"""A model whose input takes images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from image_files import ROW


@pytest.fixture
def put_images(put: Callable[..., Path]) -> Callable[..., None]:
    """Puts the model "double", whose input takes images."""

    def put_model(settings: str = "", row: Sequence[int | None] = ROW, model: str = "double") -> None:
        folder = put(model, row=row).parents[1]
        (folder / "layerserve.toml").write_text(f'[inputs.x]\ndecode = "image"\n{settings}')

    return put_model
