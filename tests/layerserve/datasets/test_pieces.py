"""What is sent in several pieces is whole, and is compared as a whole."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from layerserve.datasets import content as dataset_content

#: Bytes of a piece, so that small data has many.
SMALL = 24
NUMBERS = np.arange(33, dtype=np.float32).reshape(11, 3)
TEXT = np.array([f"row {number}" for number in range(11)])[:, None]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_content, "PIECE", SMALL)


@pytest.mark.parametrize("size", [1, SMALL, SMALL + 1, 10 * SMALL])
def test_a_file_of_any_size_is_uploaded_whole(client, server, tmp_path, size):
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "a.csv").write_bytes(content)
    found = client.datasets.upload(tmp_path / "a.csv")
    assert server.datasets.bytes[found.id] == content


@pytest.mark.parametrize("cut", [1, SMALL, 3 * SMALL + 5])
def test_a_dataset_that_is_cut_between_pieces_or_within_one_goes_on_where_it_was(client, server, cut):
    server.datasets.cuts = [cut, 2 * cut]
    found = client.datasets.upload(x=NUMBERS, y=TEXT)
    assert hashlib.sha256(server.datasets.bytes[found.id]).hexdigest() == found.id
