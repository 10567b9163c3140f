"""Requests of a session are checked before its process gets them: each refusal names the field."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layergraph.functional.tensor import TensorSpec
from layerserve.v1 import online_pb2 as pb
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.online.publications import Publications
from layerserve_server.extensions.online.stream import OnlineStream
from layerserve_server.training.checks.request_checks import MAX_ARRAYS
from layerserve_server.training.request import RunRequest


def read(kind: str, **request: Any) -> None:
    """Has a session read a request."""
    run: Any = SimpleNamespace(publisher=Publications(Path(), RunRequest("m", 1, ())))
    link: Any = SimpleNamespace(inputs=[TensorSpec("x", (None, 2), "float32")], outputs=[])
    stream: Any = SimpleNamespace()
    OnlineStream(stream, run, link)._frame(pb.TrainOnlineRequest(**request), kind)


def x_of(shape: list[int]) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape, data=b"0" * 8)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"learning_rate": -0.5}, "learning_rate: got -0.5, expected a number from 0"),
        ({"learning_rate": math.inf}, "learning_rate: got inf, expected a number from 0"),
        ({"number": 0}, "number: got 0, expected the number of the step, from 1"),
        (
            {"x": [x_of([1, 2])] * (MAX_ARRAYS + 1)},
            f"batch: got {MAX_ARRAYS + 1} arrays, expected at most {MAX_ARRAYS}",
        ),
        (
            {"x": [x_of([1] * (tensors.MAX_RANK + 1))]},
            f"'x': got {tensors.MAX_RANK + 1} axes, expected at most {tensors.MAX_RANK}",
        ),
    ],
)
def test_a_step_that_is_none_is_refused(step: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        read("step", step={"number": 1, **step})


def test_a_message_without_a_request_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="got a message without a request, expected"):
        read("")
