"""The repository that is attacked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from layergraph import Input, Model, layers
from layerserve_server.repository.model_settings import SETTINGS_FILE
from layerserve_zoo.zoo import ZOO

from attacks.messages import MODEL

#: Numbers in a row of the outputs of `wide`: four bytes in, this many times four out.
WIDTH = 65_536
#: The model whose input takes encoded images.
IMAGES = "images"


def make_repository(folder: Path) -> Path:
    """`dense` and `headline` of the zoo, `wide`, whose answers are much larger than its requests, and `images`."""
    for name in (MODEL, "headline"):
        (version := folder / name / "1").mkdir(parents=True)
        ZOO[name].make(small=True).save(version / "model.keras")
    (version := folder / "wide" / "1").mkdir(parents=True)
    inputs = Input((1,), name="x")
    Model(inputs, layers.Dense(WIDTH, name="y")(inputs)).save(version / "model.keras")
    # The extension may have been deleted.
    if find_spec("layerserve_server.extensions.images"):
        (version := folder / IMAGES / "1").mkdir(parents=True)
        inputs = Input((64, 64, 3), name="x")
        Model(inputs, layers.GlobalAveragePooling2D(name="y")(inputs)).save(version / "model.keras")
        (folder / IMAGES / SETTINGS_FILE).write_text('[inputs.x]\ndecode = "image"\n')
    return folder
