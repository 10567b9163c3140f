"""How files hold a layer, beside its options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """What Keras's files have of a layer of some class, where they differ from most.

    path               where in a `.weights.h5` its own arrays lie, below its group (`cell` for recurrent layers)
    scope              the layer inside to which Keras gives weights that belong to the layer here: part of their paths
    named              whether its own arrays have names, where those of others have numbers
    as_made            whether its own arrays are numbered as they are made, where of others trainable ones come first
    assets             files in `assets/` that belong to it
    null_regularizer   whether its config says so where there is no `activity_regularizer`
    """

    path: tuple[str, ...] = ()
    scope: str | None = None
    named: bool = False
    as_made: bool = False
    assets: tuple[str, ...] = ()
    null_regularizer: bool = False
