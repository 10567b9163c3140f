"""Arrays of NumPy's files, read piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve_server.datasets import npy_files
from layerserve_server.datasets.npy_files import NpyReader, NpzReader
from layerserve_server.errors import InvalidTensorError

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


@pytest.mark.parametrize("shape", [(0, 2**70), (2**63, 0), (-1, 3), (True, 1), (0,) * 100])
def test_lengths_that_no_array_has_are_refused(tmp_path, shape):
    with (tmp_path / "a.npy").open("w+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with pytest.raises(InvalidTensorError, match=r"a: got shape \(.*, expected at most \d+ axes, each from 0 to"):
            NpyReader("a", "", file)
