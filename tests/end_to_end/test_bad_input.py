"""What bad input gets, through the client: a typed error that names the thing, what came and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layerserve import Client, errors

DENSE = np.zeros((3, 64), "float32")
HEADLINE = {"main_input": np.zeros((3, 12), "int32"), "aux_input": np.zeros((3, 5), "float32")}
LABELS = np.eye(10, dtype="float32")[:3]


def predict(*args: Any, **kwargs: Any) -> Callable[[Client], Any]:
    return lambda client: client.predict(*args, **kwargs)


def train(*args: Any, **kwargs: Any) -> Callable[[Client], Any]:
    return lambda client: client.train(*args, **kwargs).wait()


CASES: dict[str, tuple[Callable[[Client], Any], type[Exception], str]] = {
    "unknown model": (predict("densely_here", DENSE), errors.ModelNotFound, "densely_here"),
    "unknown version": (predict("dense_here", DENSE, version=9), errors.VersionNotFound, "dense_here.*9"),
    "unknown label": (predict("dense_here", DENSE, label="best"), errors.LabelNotFound, "best"),
    "unknown output": (predict("dense_here", DENSE, outputs="dense_7"), errors.UnknownOutput, "dense_7.*dense"),
    "unknown input": (predict("headline_here", {**HEADLINE, "aux": DENSE}), errors.UnknownInput, "'aux'.*aux_input"),
    "missing input": (
        predict("headline_here", {"main_input": HEADLINE["main_input"]}),
        errors.MissingInput,
        "aux_input",
    ),
    "wrong dtype": (
        predict("headline_here", {**HEADLINE, "main_input": np.full((3, 12), 0.5)}),
        errors.InvalidArgument,
        "main_input.*(int32|integer)",
    ),
    "text for numbers": (predict("dense_here", np.full((3, 64), "a")), errors.InvalidArgument, "float32"),
    "wrong rank": (predict("dense_here", np.zeros((3, 8, 8), "float32")), errors.InvalidArgument, r"\(3, 8, 8\).*64"),
    "wrong dimension": (predict("dense_here", np.zeros((3, 63), "float32")), errors.InvalidArgument, r"\(3, 63\).*64"),
    "no rows axis": (predict("dense_here", np.zeros(64, "float32")), errors.InvalidArgument, r"\(64,?\).*64"),
    "rows that differ": (
        predict("headline_here", {**HEADLINE, "aux_input": np.zeros((4, 5), "float32")}),
        errors.InvalidArgument,
        "4.*3|3.*4",
    ),
    "id out of range": (
        predict("headline_here", {**HEADLINE, "main_input": np.full((3, 12), 200, "int32")}),
        errors.InvalidArgument,
        "200.*199|200.*200",
    ),
    "negative id": (
        predict("headline_here", {**HEADLINE, "main_input": np.full((3, 12), -1, "int32")}),
        errors.InvalidArgument,
        "-1",
    ),
    "broken file": (predict("broken", DENSE), errors.ModelNotReady, "broken"),
    "training rows that differ": (train("dense_here", DENSE, LABELS[:2]), errors.InvalidArgument, "2.*3|3.*2"),
    "unknown loss": (
        train("dense_here", DENSE, LABELS, optimizer="sgd", loss="categorical_crosentropy"),
        errors.InvalidArgument,
        "categorical_crosentropy.*categorical_crossentropy",
    ),
    "unknown optimizer": (
        train("dense_here", DENSE, LABELS, optimizer="adamm", loss="mse"),
        errors.InvalidArgument,
        "adamm.*adam",
    ),
    "labels of a wrong shape": (
        train("dense_here", DENSE, np.zeros((3, 7), "float32")),
        errors.InvalidArgument,
        r"7.*10",
    ),
    "training input of a wrong shape": (
        train("dense_here", np.zeros((3, 63), "float32"), LABELS),
        errors.InvalidArgument,
        r"63.*64",
    ),
    "nothing says how to train": (
        train("inception_here", np.zeros((2, 16, 16, 3), "float32"), np.zeros((2, 48, 16, 8), "float32")),
        errors.NotCompiled,
        "neither the request nor the model file has an optimizer and a loss",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_by_name_and_harms_nobody(client: Client, case: str) -> None:
    call, kind, text = CASES[case]
    with pytest.raises(kind, match=text):
        call(client)
    assert client.predict("dense_here", DENSE).shape == (3, 10)


def test_nan_is_data(client: Client) -> None:
    rows = DENSE.copy()
    rows[1] = np.nan
    answers = client.predict("dense_here", rows)
    assert np.isnan(answers[1]).all()
    assert np.isfinite(answers[[0, 2]]).all()


def test_zero_rows_give_zero_rows(client: Client) -> None:
    assert client.predict("dense_here", np.zeros((0, 64), "float32")).shape == (0, 10)


def test_a_broken_file_says_why_and_leaves_the_others_served(client: Client) -> None:
    versions = {model.name: model for model in client.models()}
    assert versions["broken"].state == "failed"
    assert "model.keras" in versions["broken"].reason
    assert sum(model.state == "ready" for model in versions.values()) >= 30


def test_a_nan_loss_fails_the_run_with_its_step_and_publishes_nothing(client: Client) -> None:
    run = client.train(
        "tweets_keras2", *_tweets_with_nan(client), batch_size=32, shuffle=False, optimizer="sgd", loss="mse"
    )
    with pytest.raises(errors.TrainingFailed, match="nan") as failure:
        run.wait()
    assert (failure.value.epoch, failure.value.step) == (1, 3)
    assert [model.version for model in client.models("tweets_keras2")] == [1]


def _tweets_with_nan(client: Client) -> tuple[list[np.ndarray], np.ndarray]:
    specs = client.model("tweets_keras2").inputs
    x = [np.ones((96, *spec.shape[1:]), "float32") for spec in specs]
    x[0][70] = np.nan
    return x, np.zeros((96, 1), "float32")
