"""What callers may do with runs, by their owner."""

from __future__ import annotations

import pytest
from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to
from layerserve_server.training.request import RunRequest


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        (["predict"], Access.NONE),
        (["predict", "read"], Access.READ),
        (["train"], Access.FULL),
        (["manage"], Access.FULL),
    ],
)
def test_the_owner_without_train_reads_no_weights(named, rights, expected):
    """As with `--allow-anonymous predict,read`, after runs of a server without tokens."""
    caller = Caller("ann", rights, named=named)
    run = RunRequest(model="m", version=1, data=(), caller=caller.owner)
    assert access_to(caller, run) is expected
