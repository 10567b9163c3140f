"""The file with the losses of rows appears when it is complete."""

from __future__ import annotations

import numpy as np
import torch
from layerserve_server.training.process.sample_losses import FILE, PART, SampleLosses
from layerserve_server.training.run_folder.files import listed


def test_batches_are_joined_in_their_order(tmp_path):
    folder = tmp_path / "files"
    with SampleLosses(folder, 5) as losses:
        for start, stop in ((0, 2), (2, 4), (4, 5)):
            rows = torch.arange(start, stop, dtype=torch.float32)
            losses.add({"loss": rows, "a/b_loss": -rows})
            # Nothing of it is listed.
            assert listed(folder) == []
    assert [file.name for file in listed(folder)] == [FILE]
    with np.load(folder / FILE) as read:
        assert read["loss"].tolist() == [0, 1, 2, 3, 4]
        assert read["a/b_loss"].tolist() == [0, -1, -2, -3, -4]
        assert read["loss"].dtype == np.float32
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_losses_of_some_rows_have_their_places(tmp_path):
    with SampleLosses(tmp_path, 5, np.array([3, 0, 4])) as losses:
        losses.add({"loss": torch.tensor([1.0, 2.0])})
        losses.add({"loss": torch.tensor([3.0])})
    with np.load(tmp_path / FILE) as read:
        np.testing.assert_array_equal(read["loss"], [2, np.nan, np.nan, 1, 3])


def test_an_evaluation_that_fails_leaves_no_file_and_can_begin_anew(tmp_path):
    losses = SampleLosses(tmp_path, 4)
    losses.add({"loss": torch.ones(2)})
    losses.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert listed(tmp_path) == []
    (tmp_path / f"{PART}-0.npy").write_bytes(b"left by a killed process")
    with SampleLosses(tmp_path, 1) as losses:
        losses.add({"loss": torch.ones(1)})
    assert [file.name for file in listed(tmp_path)] == [FILE]
