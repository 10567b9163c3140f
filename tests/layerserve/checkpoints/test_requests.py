from __future__ import annotations

import pytest
from layerserve.calls import methods as m
from layerserve.checkpoints.blocking import Checkpoints
from sent_requests import ROWS, Table, X, cases, check_options, without_entry

CHECKPOINT = "run-1/best"

METHODS: Table = {
    "download": (m.DOWNLOAD_CHECKPOINT, ("r/best", "."), [{"state": True}, {"format": "keras3_h5"}]),
    "publish": (m.PUBLISH_CHECKPOINT, ("r/best",), [{"label": "best", "format": "keras3_h5"}]),
    "predict": (m.PREDICT_CHECKPOINT, (CHECKPOINT, ROWS), [{"outputs": ["y"]}]),
    "predict_named": (m.PREDICT_CHECKPOINT, (CHECKPOINT, ROWS), [{"outputs": ["y"]}]),
}
#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS: dict[str, set[str]] = {}


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(METHODS))
def test_options_arrive(client, request_of, name, method, arguments, options):
    run = client.train("double", X, X)
    arguments = tuple(run.id + "/best" if one == CHECKPOINT else one for one in arguments)
    check_options(request_of, getattr(client.checkpoints, name), method, arguments, options)


def test_every_option_of_a_method_has_an_entry():
    assert without_entry(Checkpoints, METHODS) == OTHERS
