"""LoRA settings of a run are checked as numbers and texts, before anything is made of them."""

from __future__ import annotations

from typing import Any

import pytest
from layerserve.errors import InvalidArgument
from layerserve.training.compile_settings import lora_json
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.lora import MAX_RANK, lora_settings

WHOLE = {"rank": 8, "alpha": 16, "layers": ["dense_*"], "keep": True}


def test_settings_are_taken() -> None:
    assert lora_settings(WHOLE) == WHOLE
    assert lora_settings({"rank": MAX_RANK, "alpha": None, "keep": False}) == {"rank": MAX_RANK, "keep": False}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (8, "lora: expected an object with a rank"),
        ({"alpha": 2}, "lora: expected an object with a rank"),
        ({"rank": None}, "lora.rank: got None, expected a whole number from 1 to 4096"),
        ({"rank": 0}, "lora.rank: got 0"),
        ({"rank": True}, "lora.rank: got True"),
        ({"rank": 2.0}, "lora.rank: got 2.0"),
        ({"rank": MAX_RANK + 1}, "lora.rank: got 4097"),
        ({"rank": 1, "alpha": 0}, "lora.alpha: got 0, expected a number above 0"),
        ({"rank": 1, "alpha": float("inf")}, "lora.alpha: got inf"),
        ({"rank": 1, "alpha": float("nan")}, "lora.alpha: got nan"),
        ({"rank": 1, "layers": []}, "lora.layers: got [], expected a list of patterns"),
        ({"rank": 1, "layers": "dense"}, "lora.layers: got 'dense'"),
        ({"rank": 1, "layers": [1]}, "lora.layers: got [1]"),
        ({"rank": 1, "keep": 1}, "lora.keep: got 1, expected true or false"),
        ({"rank": 1, "dropout": 0.1}, "lora: unknown setting 'dropout', expected rank, alpha, layers, keep"),
    ],
)
def test_settings_that_mean_nothing_are_named(given: Any, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        lora_settings(given)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("given", [0.5, True, "8", {"alpha": 2}, {"rank": 1, "dropout": 0.1}, {"rank": {1}}])
def test_the_client_names_its_own_settings(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="lora: got "):
        lora_json(given)


def test_the_client_takes_a_rank_alone_and_one_pattern() -> None:
    assert lora_json(8) == '{"rank": 8}'
    assert lora_json({"rank": 8, "layers": "dense"}) == '{"rank": 8, "layers": ["dense"]}'
