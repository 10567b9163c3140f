"""Bodies of the REST form that are long enough for another process: the replies and errors of short ones."""

from __future__ import annotations

import json

import numpy as np
from layerserve_server.services.rest import body_reader

PREDICT = "/v1/models/double:predict"
ROWS = 40_000
X = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2) / 8
WRONG = [
    ({"instances": [*X.tolist(), [1]]}, f"instances[{ROWS}]: got a list of 1, expected a list of 2"),
    ({"instances": X.tolist(), "signature_name": "no"}, 'signature key "no" not found'),
    ({"inputs": {"z": X.tolist()}}, "Sent extra: {z}"),
    ({"inputs": {f"z{number}": 1 for number in range(40_000)}}, "too many names"),
    (b" " * 300_000, "isn't JSON"),
    (b"[" * 300_000, "isn't JSON"),
    (b'{"instances":[' + b"{}," * 200_000 + b"{}]}", "Missing but required: {x}"),
]


def test_long_bodies_get_the_replies_and_errors_of_short_ones(serve, wait_until):
    app, call = serve(max_batch_rows=ROWS)
    rows, doubled = X.tolist(), (2 * X).tolist()
    assert len(json.dumps(rows)) > body_reader.LONG_JSON_BYTES
    assert call("POST", PREDICT, {"instances": rows}).json == {"predictions": doubled}
    assert call("POST", PREDICT, {"instances": [{"x": row} for row in rows]}).json == {"predictions": doubled}
    assert call("POST", PREDICT, {"inputs": {"x": rows}}).json == {"outputs": doubled}
    for body, text in WRONG:
        reply = call("POST", PREDICT, body)
        assert (reply.status, text in reply.json["error"]) == (400, True), reply.json
    wait_until(lambda: app._transport.memory.held == 0)
