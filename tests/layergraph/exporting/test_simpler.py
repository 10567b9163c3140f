"""Operations in terms of simpler ones give torch's numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from layergraph.exporting.simpler import FOR_ONNX, SimplerOperations

UNUSUAL = [0.0, -0.0, 1e-8, -1e-4, 3.0, -3.0, math.inf, -math.inf, math.nan, 20.0]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.meshgrid(torch.tensor(UNUSUAL), torch.tensor(UNUSUAL), indexing="ij")
    return grid[0].reshape(-1), grid[1].reshape(-1)


ONE = ("cosh", "deg2rad", "exp2", "expm1", "isneginf", "isposinf", "rad2deg", "sinc", "sinh", "trunc")
TWO = ("fmax", "fmin", "heaviside", "hypot", "isclose", "logaddexp", "logaddexp2", "xlogy")
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((name, (torch.tensor(UNUSUAL),), {}) for name in ONE),
    *((name, pairs(), {}) for name in TWO),
    ("isclose", pairs(), {"equal_nan": True, "atol": 0.1}),
    ("trunc", (torch.tensor([-2, 3]),), {}),
    ("argsort", (floats(3, 5),), {"dim": 0, "stable": True}),
    ("argsort", (torch.tensor([2, 1, 5, 0, -1]),), {"descending": True, "stable": True}),
    ("sort", (torch.tensor([[True, False, True], [False, False, True]]),), {"dim": 1, "stable": True}),
    ("sort", (floats(4).half(),), {}),
    ("clamp", (torch.tensor([-2, 0, 3]), 0.5), {"max": 2}),
    ("clamp", (torch.tensor([-2, 0, 3]),), {"max": 2}),
    ("count_nonzero", (torch.tensor([[0, 1], [2, 3]]),), {}),
    ("clamp", (torch.tensor([-2, 0, 3]), 0.5), {"max": 2}),
    ("clamp", (torch.tensor([-2, 0, 3]),), {"max": 2}),
    ("count_nonzero", (torch.tensor([[0, 1], [2, 3]]),), {"dim": 1}),
    *(("cumprod", (floats(2, n),), {"dim": 1}) for n in (1, 2, 7, 8)),
    ("cumprod", (torch.tensor([1, 2, 3], dtype=torch.int32),), {"dim": 0}),
    ("diff", (floats(2, 6),), {"n": 2}),
    ("diff", (torch.tensor([True, False, False]),), {"prepend": torch.tensor([False])}),
    *(("diagonal", (floats(3, 5, 4), offset, 0, -1), {}) for offset in (-1, 0, 2)),
    ("dstack", ([floats(2, 3), floats(2, 3)],), {}),
    ("dstack", ([floats(2), floats(2)],), {}),
    ("dstack", ([floats(2, 3, 1), floats(2, 3, 4)],), {}),
    ("nanmean", (torch.tensor([[1.0, math.nan], [3.0, 5.0]]),), {"dim": 1, "keepdim": True}),
    ("nanmean", (torch.tensor([[1.0, math.nan], [3.0, 5.0]]),), {}),
    *(
        ("quantile", (floats(3, 5, 4), torch.tensor([0.1, 0.5, 1.0]), dim, keep), {"interpolation": way})
        for dim in (None, 0, -2)
        for keep in (False, True)
        for way in ("linear", "lower", "higher", "midpoint", "nearest")
    ),
    ("quantile", (torch.tensor([1.0, math.nan]), 0.5), {}),
    *(("rot90", (floats(2, 3, 4), k, (0, 2)), {}) for k in range(-1, 5)),
    ("take_along_dim", (floats(3, 4), torch.tensor([[0, 3], [1, 1], [2, 0]]), 1), {}),
    ("take_along_dim", (floats(3, 4), torch.tensor([[1, 0]]), -1), {}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)])
def test_it_is_torchs(name: str, arguments: Any, options: Any) -> None:
    function = getattr(torch, name)
    want = function(*arguments, **options)
    assert function in FOR_ONNX
    with SimplerOperations(FOR_ONNX):
        got = function(*arguments, **options)
    for a, b in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_axes_are_squeezed_one_by_one() -> None:
    x = floats(1, 2, 1, 3)
    with SimplerOperations(FOR_ONNX):
        assert x.squeeze([0, -2]).shape == (2, 3)
        assert x.squeeze(0).shape == (2, 1, 3)
        assert x.squeeze().shape == (2, 3)
