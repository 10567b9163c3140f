"""Ways in which an engine is worth a try: few threads only for quick rows, apart only where calls were joined."""

from __future__ import annotations

import pytest
from layergraph.execution.tuning.variants import Variants


def variants(*, threads: int = 4, batched: bool = True, apart: bool = False) -> Variants:
    made = Variants.__new__(Variants)
    made._threads, made._batched = threads, batched
    made._sources = {"": None, "-apart": None} if apart else {"": None}  # type: ignore[dict-item]
    return made


@pytest.mark.parametrize(
    ("options", "engine", "seconds", "others"),
    [
        ({}, "onnxruntime", 0.0099, ["-single", "-split"]),
        ({}, "openvino", 0.0, ["-single", "-split"]),
        ({}, "onnxruntime", 0.01, []),
        ({}, "torchscript", 0.0, []),
        ({"threads": 1}, "onnxruntime", 0.0, []),
        ({"batched": False}, "onnxruntime", 0.0, ["-single"]),
        ({"apart": True}, "torchscript", 1.0, ["-apart"]),
        ({"apart": True}, "openvino", 0.0, ["-apart", "-single", "-split"]),
    ],
)
def test_what_is_worth_a_try(options: dict[str, bool], engine: str, seconds: float, others: list[str]) -> None:
    assert list(variants(**options).others(engine, seconds)) == [engine + ending for ending in others]
