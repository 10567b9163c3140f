from __future__ import annotations

import pytest
from layerserve.calls import methods as m
from layerserve.datasets.blocking import Datasets
from sent_requests import WHERE, Table, cases, check_options, without_entry

METHODS: Table = {
    "upload": (m.UPLOAD_DATASET, ("d.csv",), [{"title": "t", "keep_seconds": 5.0, "shared": True}]),
    "create_from_samples": (
        m.MAKE_DATASET,
        ("double", {"request-1": [1.0]}),
        [{"uncorrected": True, "title": "t", "keep_seconds": 5.0, "shared": True, **one} for one in WHERE],
    ),
}
#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS = {"upload": {"sample_weight", "validation_data"}}


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(METHODS))
def test_options_arrive(client, request_of, name, method, arguments, options):
    check_options(request_of, getattr(client.datasets, name), method, arguments, options)


def test_every_option_of_a_method_has_an_entry():
    assert without_entry(Datasets, METHODS) == OTHERS
