from __future__ import annotations

import pytest
from layerserve.calls.methods import METHODS, rpc
from layerserve.v1 import options_pb2
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse, PredictStreamResponse


def test_an_rpc_is_as_the_contract_has_it():
    predict, stream, train = METHODS["Predict"], METHODS["PredictStream"], METHODS["Train"]
    assert predict.path == "/layerserve.v1.PredictionService/Predict"
    assert rpc(PredictRequest, PredictResponse) is predict
    assert [(one.streams_requests, one.streams_replies) for one in (predict, stream, train)] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    assert METHODS["WatchRun"].streams_replies
    assert not METHODS["WatchRun"].streams_requests


def test_a_request_has_one_type_of_replies():
    with pytest.raises(AssertionError, match="Predict: got replies of type PredictStreamResponse, expected"):
        rpc(PredictRequest, PredictStreamResponse)


def test_only_calls_that_change_nothing_or_have_a_key_are_repeated():
    """As proto/ says, which the server's rights are compared with, too. No stream is repeated."""
    assert METHODS["Predict"].repeatable
    assert METHODS["GetSweep"].repeatable
    assert not any(METHODS[name].repeatable for name in ("DeleteRun", "Train", "WatchRun", "DownloadModel"))
    assert not any(one.repeatable for one in METHODS.values() if one.streams_requests or one.streams_replies)
    reading = ("Get", "List", "Predict", "Estimate", "Explain")
    others = {one for one in METHODS.values() if one.repeatable and not one.name.startswith(reading)}
    assert {one.name for one in others if right_of(one) != options_pb2.RIGHT_READ} == {"Score", "CreateSweep"}


def right_of(method):
    described = options_pb2.DESCRIPTOR.pool.FindMethodByName(f"{method.service}.{method.name}")
    return described.GetOptions().Extensions[options_pb2.right]
