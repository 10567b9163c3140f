"""Kept graphs are found again for the same model on the same machine only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve_server.artifacts import keys
from layerserve_server.artifacts.keys import digest_of, installed, machine, model_digest


def model(units: int = 2, value: float = 1.0, activation: str = "relu") -> Model:
    entry = Input((4,), name="x")
    made = Model(entry, layers.Dense(units, activation=activation, name="y")(entry), name="m")
    made.set_weights([np.full((4, units), value, "float32"), np.zeros(units, "float32")])
    return made


def test_a_digest_is_of_the_config_and_the_weights() -> None:
    assert model_digest(model()) == model_digest(model())
    others = [model(), model(units=3), model(value=1.5), model(activation="tanh")]
    assert len({model_digest(one) for one in others}) == len(others)
    assert digest_of("a", 1) != digest_of("a", "1")


def test_a_digest_is_of_what_a_file_has_beside_config_and_weights() -> None:
    """A vocabulary is a constant of a traced graph."""
    digests = set()
    for terms in (b"10\n20\n30\n", b"30\n20\n10\n"):
        lookup = layers.IntegerLookup(name="lookup")
        lookup.load_asset("vocabulary.txt", terms)
        entry = Input((1,), dtype="int64", name="x")
        digests.add(model_digest(Model(entry, lookup(entry), name="m")))
    assert len(digests) == 2


def test_packages_have_their_version_or_none() -> None:
    assert installed(["numpy", "no-such-package"]) == [np.__version__, None]


def test_a_machine_is_its_processor_and_how_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(keys, "_CPU_INFO", info)
    found = []
    for flags, frequency, count in (("avx2", 1, 2), ("avx2", 2, 2), ("avx512", 1, 2), ("avx2", 1, 4)):
        info.write_text(f"model name : A\nflags : {flags}\ncpu MHz : {frequency}\n" * count)
        monkeypatch.setattr(keys.os, "cpu_count", lambda count=count: count)
        machine.cache_clear()
        found.append(machine())
    info.unlink()
    machine.cache_clear()
    found.append(machine())
    machine.cache_clear()
    assert found[0] == found[1]
    assert len(set(found)) == 4
