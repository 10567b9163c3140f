from __future__ import annotations

import pytest
from filled_messages import check_reader
from layerserve import DataLoss
from layerserve.sweeps.sweep import read_sweep
from layerserve.v1 import sweeps_pb2 as pb


def test_no_field_of_a_sweep_is_left_out():
    check_reader(read_sweep, pb.Sweep)


@pytest.mark.parametrize("trial", [{"settings": [{"name": "a", "value": "{"}]}, {"epochs": [1], "history": [1, 2]}])
def test_a_malformed_trial_is_lost_data(trial):
    with pytest.raises(DataLoss, match="trial 0 is malformed"):
        read_sweep(pb.Sweep(trials=[trial]))
