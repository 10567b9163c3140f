"""The settings of trials: within their space, and the same whenever they are asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension, Settings
from layerserve_server.extensions.sweeps.trial_settings import settings_of

SPACE = (
    Dimension("optimizer", ("sgd", ["adam"], {"class_name": "rmsprop"})),
    Dimension("batch_size", low=8, high=32, step=8, integer=True),
    Dimension("epochs", low=3, high=5, integer=True),
    Dimension("optimizer.learning_rate", low=1e-4, high=1e-1, log=True),
    Dimension("lora_rank", low=1, high=64, log=True, integer=True),
    Dimension("clipnorm", low=0.5, high=2.0),
    Dimension("dropout", low=0.0, high=0.3, step=0.1),
)
PLAN = Plan(SPACE, Method.RANDOM, 400, 1, 3, "loss", False)


@pytest.fixture(scope="module")
def drawn() -> list[Settings]:
    return [settings_of(PLAN, number) for number in range(400)]


def of(drawn: list[Settings], name: str) -> list[Any]:
    return [settings[name] for settings in drawn]


def test_settings_depend_on_the_seed_and_the_number_alone(drawn: list[Settings]) -> None:
    assert [settings_of(PLAN, number) for number in (7, 0, 399)] == [drawn[7], drawn[0], drawn[399]]
    assert all(list(settings) == [dimension.name for dimension in SPACE] for settings in drawn)
    for seed in (4, -3):
        other = [settings_of(replace(PLAN, seed=seed), number) for number in range(20)]
        assert all(settings not in drawn for settings in other)


def test_values_and_steps_come_equally_often(drawn: list[Settings]) -> None:
    for name, expected in (
        ("optimizer", SPACE[0].values),
        ("batch_size", (8, 16, 24, 32)),
        ("epochs", (3, 4, 5)),
        ("dropout", (0.0, 0.1, 0.2, 0.3)),
    ):
        found = of(drawn, name)
        assert {repr(one) for one in found} == {repr(one) for one in expected}
        assert min(map(found.count, expected)) > 400 / len(expected) * 0.7


def test_numbers_of_a_range_are_spread_over_it(drawn: list[Settings]) -> None:
    norms, rates, ranks = (sorted(of(drawn, n)) for n in ("clipnorm", "optimizer.learning_rate", "lora_rank"))
    assert 0.5 <= norms[0] < norms[-1] <= 2.0
    assert norms[200] == pytest.approx(1.25, abs=0.15)
    assert 1e-4 <= rates[0] < rates[-1] <= 1e-1
    assert math.log10(rates[200]) == pytest.approx(-2.5, abs=0.3)
    assert {type(rank) for rank in ranks} == {int}
    assert (ranks[0], ranks[-1]) == (1, 64)
    # Of the logarithms, from 0.5 to 64.5, half are below 5.7, and 23 % below 1.5.
    assert ranks[200] == pytest.approx(6.5, abs=2.5)
    assert ranks.count(1) / 400 == pytest.approx(0.23, abs=0.07)


def test_a_grid_has_each_combination_once() -> None:
    space = (Dimension("shuffle", (True, False)), Dimension("seed", low=1, high=3, integer=True))
    orders = []
    for seed in range(3):
        plan = Plan(space, Method.GRID, 6, 1, seed, "loss", False)
        orders.append([tuple(settings_of(plan, number).values()) for number in range(6)])
    assert all(set(order) == {(shuffle, n) for shuffle in (True, False) for n in (1, 2, 3)} for order in orders)
    assert not orders[0] == orders[1] == orders[2]
