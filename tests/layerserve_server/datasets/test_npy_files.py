"""Arrays of NumPy's files, read piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve_server.datasets import npy_files
from layerserve_server.datasets.npy_files import NpyReader, NpzReader

TEXT = np.array([["cat", "dö"], ["", "horse"], ["x", "yy"]])


@pytest.mark.parametrize("chunk", [1, 7, 20, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_pieces_end_between_elements(tmp_path, monkeypatch, chunk, packed):
    """A chunk of the file may end within an element: one of text has 20 bytes here."""
    monkeypatch.setattr(npy_files, "CHUNK", chunk)
    np.save(tmp_path / "a.npy", TEXT)
    np.savez_compressed(tmp_path / "a.npz", text=TEXT)
    kind, key, name = (NpzReader, "text", "a.npz") if packed else (NpyReader, "", "a.npy")
    with (tmp_path / name).open("rb") as file:
        pieces = list(kind("a", key, file).pieces(np.dtype(object)))
    assert np.concatenate(pieces).tolist() == [text.encode() for text in TEXT.ravel()]
