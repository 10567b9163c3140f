"""What the page reads beside replies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from layerserve.v1.models_pb2 import ModelVersion
from layerserve_server.errors import UnavailableError
from layerserve_server.services.ui.served import Served


def test_the_folder_of_sweeps_is_read_once_for_all_versions() -> None:
    asked = []
    nothing: Any = SimpleNamespace()

    def sweeps() -> set[str]:
        asked.append(1)
        return {"s"}

    served = Served(nothing, nothing, "0", 8500, sweeps)
    versions = [ModelVersion(version=number, training_run="s" if number % 2 else "r") for number in range(1, 101)]
    assert served.origins([ModelVersion(version=1)]) == {}
    assert not asked
    assert served.origins(versions) == {number: "sweep" if number % 2 else "run" for number in range(1, 101)}
    assert len(asked) == 1

    def starting() -> set[str]:
        raise UnavailableError("the server is starting")

    assert Served(nothing, nothing, "0", 8500, starting).origins(versions[:1]) == {1: "run"}
