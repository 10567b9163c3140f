"""Hostile and broken containers: each raises its own typed error, with little time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_files import CASES, dataset, h5, keras, self_linked, state
from imported_models import imported_model
from layergraph.errors import ModelFileError
from layergraph.models.loading import load_model


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_costs_one_typed_error(tmp_path: Path, name: str) -> None:
    make, kind, text = CASES[name]
    path = tmp_path / "model.keras"
    path.write_bytes(make())
    start = time.process_time()
    with pytest.raises(kind, match=f"model.keras: .*{text}") as here:
        load_model(path)
    assert time.process_time() - start < 2
    with pytest.raises(kind) as imported:
        imported_model(path, tmp_path / "read")
    assert str(imported.value) == str(here.value)
    assert time.process_time() - start < 4


def test_the_good_files_that_the_cases_change_are_good(tmp_path: Path) -> None:
    # A loop of hard links is harmless, since only names from the config are looked up.
    others = [keras(compression=zipfile.ZIP_DEFLATED), keras(weights=state(self_linked))]
    for data in (keras(), h5(), dataset(data=np.ones((4, 3), ">f8")), *others):
        (tmp_path / "model").write_bytes(data)
        assert load_model(tmp_path / "model").count_params() == 27


def truncations(data: bytes) -> Iterator[bytes]:
    step = max(1, len(data) // 25)
    for end in range(0, len(data), step):
        yield data[:end]


@pytest.mark.parametrize("make", [keras, h5], ids=["keras", "h5"])
def test_a_truncated_file_is_corrupt(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "model"
    for data in truncations(make()):
        path.write_bytes(data)
        with pytest.raises(ModelFileError):
            load_model(path)


@pytest.mark.parametrize("make", [keras, h5], ids=["keras", "h5"])
def test_flipped_bits_give_a_model_or_a_typed_error(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "model"
    good = make()
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for at in random.integers(0, len(data), 3):
            data[at] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            load_model(path)
        except ModelFileError:
            refused += 1
    assert refused


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """In a separate process, because peak memory never decreases."""
    names = ["bomb", "bomb with a lying header", "a large chunk that inflates", "huge chunks", "huge, unwritten"]
    for index, name in enumerate(names):
        (tmp_path / f"{index}.keras").write_bytes(CASES[name][0]())
    script = (
        "import resource, sys\n"
        "from layergraph.models.loading import load_model\n"
        "from layergraph.errors import ModelFileError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_model(path)\n"
        "    except ModelFileError: continue\n"
        "    sys.exit('loaded ' + path)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 300 * 1024, f"{kilobytes} kB above the start"


def test_hdf5_looks_for_no_plugins() -> None:
    assert os.environ["HDF5_PLUGIN_PRELOAD"] == "::"
