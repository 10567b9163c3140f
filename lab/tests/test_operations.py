"""The fuzzer of operations makes every kind of call: where one fails it draws again, so a broken kind goes unseen."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from oracles import keras
from random_operations import OperationMaker

#: Seeds tried for each kind of call: some draw tensors that don't fit.
SEEDS = 40


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fuzzer's module, imported as its command line imports it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("operations")


def _works(step: Any, seed: int) -> bool:
    maker = OperationMaker(seed, lambda t: t.shape, lambda t: str(t.dtype))
    maker.tensors = [keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
    try:
        step(maker)
    except Exception:
        return False
    return True


def test_each_kind_of_call_can_be_made(operations: Any) -> None:
    broken = [step.__name__ for step in operations.STEPS if not any(_works(step, seed) for seed in range(SEEDS))]
    assert not broken
