from __future__ import annotations

from functools import partial

from filled_messages import check_names
from layerserve.checkpoints import checkpoint
from layerserve.v1.checkpoints_pb2 import Checkpoint


def test_a_field_of_a_checkpoint_has_the_value_of_its_name():
    check_names(partial(checkpoint._read, "a"), Checkpoint)
