"""Addresses of models in MLflow."""

from __future__ import annotations

import pytest
from layerserve.registries.mlflow_address import MlflowAddress, is_mlflow, read_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:/iris@champion", MlflowAddress("models:/iris@champion", "iris", alias="champion")),
        ("models:/iris/champion", MlflowAddress("models:/iris/champion", "iris", alias="champion")),
        ("models:/my iris/12", MlflowAddress("models:/my iris/12", "my iris", version=12)),
        ("models:/main.ml.iris/latest", MlflowAddress("models:/main.ml.iris/latest", "main.ml.iris", alias="latest")),
        ("models:/m-0123456789abcdef", MlflowAddress("models:/m-0123456789abcdef", "m-0123456789abcdef")),
        ("runs:/ab12/model", MlflowAddress("runs:/ab12/model", "model", run="ab12")),
        ("runs:/ab12/a/b", MlflowAddress("runs:/ab12/a/b", "b", run="ab12")),
    ],
)
def test_what_an_address_names(text, expected):
    assert is_mlflow(text)
    assert read_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("models:/iris", "models:/iris/0", "models:/iris/1/2", "models:/iris@a/b", "models:/@champion"),
        *("models:/iris/", "models:/../1", "models:/iris\n/1", "models://host/iris/1", "models:/"),
        *("runs:/ab12", "runs:/ab12/", "runs:/ab12/../x", "runs:/ab12//x"),
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="models:/NAME@ALIAS"):
        read_address(text)
