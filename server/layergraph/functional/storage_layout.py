"""How layers are stored in files, apart from their options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """Differences of a layer class in Keras's files from the default layout.

    path               where its own arrays are in a `.weights.h5`, relative to its group (`cell` for recurrent layers)
    scope              Keras's sublayer that owns weights which belong to the layer itself here: part of their paths
    named              whether its own arrays are stored by name rather than by number
    as_made            whether its own arrays are numbered in order of creation rather than trainable ones first
    assets             names of its files in `assets/`
    in_keras3_h5       whether Keras 3 writes its own weights into an `.h5`
    keras2_weights     names of its own weights that only Keras 2 writes into an `.h5`
    null_regularizer   whether its config contains `activity_regularizer` even if it is null
    """

    path: tuple[str, ...] = ()
    scope: str | None = None
    named: bool = False
    as_made: bool = False
    assets: tuple[str, ...] = ()
    in_keras3_h5: bool = True
    keras2_weights: tuple[str, ...] = ()
    null_regularizer: bool = False
