from __future__ import annotations

import pytest
from layerserve.calls import methods as m
from layerserve.estimates.blocking import Estimates
from sent_requests import ALWAYS, WEIGHTED, WHERE, Table, X, cases, check_options, without_entry

METHODS: Table = {
    "train": (
        m.ESTIMATE_RUN,
        ("double",),
        [{**ALWAYS, **WEIGHTED, "validation_data": (X, X), **one} for one in WHERE],
    ),
    "evaluate": (m.ESTIMATE_RUN, ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
}
#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS: dict[str, set[str]] = {}


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(METHODS))
def test_options_arrive(client, request_of, name, method, arguments, options):
    check_options(request_of, getattr(client.estimates, name), method, arguments, options)


def test_every_option_of_a_method_has_an_entry():
    assert without_entry(Estimates, METHODS) == OTHERS
