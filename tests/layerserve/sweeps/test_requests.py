from __future__ import annotations

import pytest
from layerserve.calls import methods as m
from layerserve.sweeps.blocking import Sweeps
from sent_requests import Table, cases, check_options, without_entry

METHODS: Table = {
    "list": (m.LIST_SWEEPS, (), [{"model": "double"}]),
}
#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS = {
    "create": {
        *("version", "label", "sample_weight", "validation_data", "method", "trials", "parallel"),
        "search_seed",
    },
}


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(METHODS))
def test_options_arrive(client, request_of, name, method, arguments, options):
    check_options(request_of, getattr(client.sweeps, name), method, arguments, options)


def test_every_option_of_a_method_has_an_entry():
    assert without_entry(Sweeps, METHODS) == OTHERS
