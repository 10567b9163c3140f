"""Which variants of an engine are tried: few threads for fast rows only, unmerged calls only if calls were merged."""

from __future__ import annotations

import pytest
from layergraph.execution.tuning.variants import Variants


def variants(*, threads: int = 4, batched: bool = True, unmerged: bool = False) -> Variants:
    made = Variants.__new__(Variants)
    made._threads, made._batched = threads, batched
    made._sources = {"": None, "-unmerged": None} if unmerged else {"": None}  # type: ignore[dict-item]
    return made


@pytest.mark.parametrize(
    ("options", "engine", "seconds", "others"),
    [
        ({}, "onnxruntime", 0.0199, ["-1thread", "-rowparallel", "-rowbyrow"]),
        ({}, "onnxruntime", 0.00051, ["-1thread", "-rowparallel", "-rowbyrow"]),
        ({}, "openvino", 0.0005, ["-1thread", "-rowparallel"]),
        ({}, "onnxruntime", 0.02, []),
        ({}, "torchscript", 0.0, []),
        ({}, "torchscript", 0.001, []),
        ({"threads": 1}, "onnxruntime", 0.0, []),
        ({"threads": 1}, "openvino", 0.001, ["-rowbyrow"]),
        ({"batched": False}, "onnxruntime", 0.0, ["-1thread"]),
        ({"batched": False}, "onnxruntime", 0.001, ["-1thread"]),
        ({"unmerged": True}, "torchscript", 1.0, ["-unmerged"]),
        ({"unmerged": True}, "openvino", 0.0, ["-unmerged", "-1thread", "-rowparallel"]),
    ],
)
def test_what_is_worth_a_try(options: dict[str, bool], engine: str, seconds: float, others: list[str]) -> None:
    assert list(variants(**options).others(engine, seconds)) == [engine + ending for ending in others]
