from __future__ import annotations

import pytest
from filled_messages import check_reader
from layerserve import DataLoss
from layerserve.datasets.info import read_dataset
from layerserve.v1 import datasets_pb2 as pb


def test_no_field_of_a_dataset_is_left_out():
    check_reader(read_dataset, pb.Dataset)


def test_a_malformed_dataset_is_lost_data():
    with pytest.raises(DataLoss, match="the server's reply: "):
        read_dataset(pb.Dataset(used_time={"seconds": -(2**60)}))
