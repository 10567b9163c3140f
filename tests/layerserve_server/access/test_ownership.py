"""What callers may do with runs, by their owner."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to, deletes_dataset, sees_dataset
from layerserve_server.errors import UnauthenticatedError
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


@pytest.mark.parametrize(
    ("callers", "rights", "expected"),
    [
        ((), ["read", "train"], Access.NONE),
        ((), ["manage"], Access.FULL),
        (("bob",), ["read", "train", "manage"], Access.NONE),
        (("a*",), ["read", "train"], Access.FULL),
    ],
)
def test_a_run_exists_for_the_callers_that_its_model_was_open_to(callers, rights, expected):
    """For managers only if those callers aren't known any more."""
    caller = Caller("ann", rights)
    run = RunRequest(model="m", version=1, data=(), caller="ann", callers=callers)
    assert access_to(caller, run) is expected


@pytest.mark.parametrize(
    ("rights", "models", "allowed"), [(["train"], ["*"], False), (["manage"], ["*"], True), (["manage"], ["m"], False)]
)
def test_datasets_of_callers_without_a_token_are_those_of_who_manages_all(rights, models, allowed):
    caller = Caller("anonymous", rights, models, named=False)
    with nullcontext() if allowed else pytest.raises(UnauthenticatedError, match="datasets belong to callers with"):
        caller.check_may_own("datasets")


@pytest.mark.parametrize(
    ("caller", "sees", "deletes"),
    [
        (Caller("ann", ["train"]), True, True),
        (Caller("bob", ["read", "train"]), False, False),
        (Caller("bob", ["manage"], ["m"]), False, False),
        (Caller("bob", ["manage"]), True, True),
        (Caller("ann", ["train"], named=False), False, False),
    ],
)
def test_a_dataset_belongs_to_its_owners_and_is_seen_by_all_if_shared(caller, sees, deletes):
    dataset = SimpleNamespace(owner_names=("ann", "eve"), shared=False)
    assert (sees_dataset(caller, dataset), deletes_dataset(caller, dataset)) == (sees, deletes)
    dataset.shared = True
    assert (sees_dataset(caller, dataset), deletes_dataset(caller, dataset)) == (True, deletes)
