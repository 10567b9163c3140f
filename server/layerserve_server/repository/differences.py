"""How the inputs and outputs of two versions of a model differ."""

from __future__ import annotations

from collections.abc import Sequence

from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.entry import Description


def differences(before: Description | None, after: Description | None) -> list[str]:
    """Returns a text for each input and output that differs; none if one of the versions hasn't been loaded."""
    if before is None or after is None or not before.inputs or not after.inputs:
        return []
    names = f"version {before.version}", f"version {after.version}"
    return [
        *_of_kind("input", before.inputs, after.inputs, *names),
        *_of_kind("output", before.outputs, after.outputs, *names),
    ]


def _of_kind(
    kind: str, before: Sequence[TensorSpec], after: Sequence[TensorSpec], earlier: str, later: str
) -> list[str]:
    old, new = ({spec.name: f"{tuple(spec.shape)} {spec.dtype}" for spec in specs} for specs in (before, after))
    texts = [
        f"{kind} '{name}': {later} has {new.get(name, 'none')}, {earlier} has {old.get(name, 'none')}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    # Clients may give arrays in the model's order.
    if old == new and list(old) != list(new):
        texts.append(f"{kind}s: {later} has {', '.join(new)}, {earlier} has {', '.join(old)}")
    return texts
