"""Which release of Keras 2 added what, by the sources of the releases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layergraph.saving.keras2 import releases

FOUND = json.loads((Path(__file__).parents[2] / "fixtures" / "keras2_classes.json").read_text())
#: 2.2.4-tf is the oldest release that is tested for.
FIRST = 2
#: Metric names that `compile` resolves itself, independently of the module.
WORDS = {"accuracy", "acc", "crossentropy", "ce"}


def later(found: dict[str, int]) -> dict[str, int]:
    return {name: since for name, since in found.items() if since > FIRST}


@pytest.mark.parametrize(
    ("kind", "table", "unsupported"),
    [
        ("losses", releases.LOSSES_SINCE, set()),
        ("metrics", releases.METRICS_SINCE, {"PyMetric"}),
        (
            "optimizers",
            releases.OPTIMIZERS_SINCE,
            {"CallableList", "NonFusedAdam", "NullContextmanager", "RestoredOptimizer"},
        ),
    ],
)
def test_classes_came_when_the_sources_say(kind: str, table: dict[str, int], unsupported: set[str]) -> None:
    found = later({name: entry["since"] for name, entry in FOUND[kind].items()})
    assert dict(table) == {name: since for name, since in found.items() if name not in unsupported}


@pytest.mark.parametrize(
    ("kind", "table", "ours"),
    [
        ("losses", releases.LOSS_OPTIONS_SINCE, set()),
        ("metrics", releases.METRIC_OPTIONS_SINCE, {"MeanTensor", "SensitivitySpecificityBase"}),
        ("optimizers", releases.OPTIMIZER_OPTIONS_SINCE | releases.SCHEDULE_OPTIONS_SINCE, {"NoisyLinearCosineDecay"}),
    ],
)
def test_options_came_when_the_sources_say(kind: str, table: dict[str, dict[str, int]], ours: set[str]) -> None:
    found = {
        name: {option: since for option, since in entry["options"].items() if since > entry["since"]}
        for name, entry in FOUND[kind].items()
        if name not in ours | {"Optimizer", "OptimizerV2"}
    }
    assert dict(table) == {name: options for name, options in found.items() if options}


@pytest.mark.parametrize(
    ("found", "table"),
    [
        (FOUND["losses_names"], releases.LOSS_NAMES_SINCE),
        (FOUND["metrics_names"], releases.METRIC_NAMES_SINCE),
    ],
    ids=["losses", "metrics"],
)
def test_names_came_when_the_sources_say(found: dict[str, int], table: dict[str, int]) -> None:
    assert later(table) == later({name: found[name] for name in table if name not in WORDS})
    assert set(table) - WORDS <= set(found)
