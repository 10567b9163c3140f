"""What callers may do with runs, by their owner."""

from __future__ import annotations

import pytest
from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to
from layerserve_server.training.request import RunRequest


@pytest.mark.parametrize("identity", [{}, {"named": False, "only": True}])
@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        (["predict"], Access.NONE),
        (["predict", "read"], Access.READ),
        (["train"], Access.FULL),
        (["manage"], Access.FULL),
    ],
)
def test_the_owner_without_train_reads_no_weights(identity, rights, expected):
    """As with `--allow-anonymous predict,read`, after runs of a server without tokens."""
    caller = Caller("ann", rights, **identity)
    run = RunRequest(model="m", version=1, data=(), caller=caller.owner)
    assert access_to(caller, run) is expected


@pytest.mark.parametrize(("rights", "expected"), [(["train"], Access.EXISTS), (["read", "train"], Access.READ)])
def test_callers_without_a_token_own_nothing_where_others_have_one(rights, expected):
    """Several callers without one can't be told apart, and what has lost its owner has the same name."""
    caller = Caller("anonymous", rights, named=False)
    assert access_to(caller, RunRequest(model="m", version=1, data=(), caller=caller.owner)) is expected
