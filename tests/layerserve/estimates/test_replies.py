from __future__ import annotations

from filled_messages import check_reader
from layerserve.estimates import estimate
from layerserve.v1.training_pb2 import EstimateRunResponse


def test_no_field_of_an_estimate_is_left_out():
    check_reader(estimate._read, EstimateRunResponse)
