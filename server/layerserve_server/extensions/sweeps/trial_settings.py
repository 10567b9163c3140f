"""The settings of a trial: a function of the sweep's plan and the trial's number, so a restart changes none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension, Settings, combinations


def settings_of(plan: Plan, number: int) -> Settings:
    """Returns the settings of a trial, by the names of the dimensions. Of a grid each combination comes once."""
    if plan.method is Method.GRID:
        return _combination(plan, number)
    random = np.random.default_rng((_seed(plan), number))
    return {dimension.name: _drawn(dimension, random) for dimension in plan.dimensions}


def _combination(plan: Plan, number: int) -> Settings:
    order = np.random.default_rng(_seed(plan)).permutation(combinations(plan.dimensions))
    rest = int(order[number])
    settings = {}
    for dimension in plan.dimensions:
        rest, index = divmod(rest, dimension.grid_size)
        settings[dimension.name] = dimension.at(index)
    return settings


def _seed(plan: Plan) -> int:
    return plan.seed % 2**64  # NumPy takes no negative seed


def _drawn(dimension: Dimension, random: np.random.Generator) -> Any:
    if size := dimension.grid_size:
        return dimension.at(int(random.integers(size)))
    low, high = dimension.low, dimension.high
    if not dimension.log:
        return float(random.uniform(low, high))
    # Each integer stands for the numbers that are rounded to it.
    margin = 0.5 if dimension.integer else 0.0
    number = math.exp(random.uniform(math.log(low - margin), math.log(high + margin)))
    number = min(max(number, low), high)
    return round(number) if dimension.integer else number
