"""What the page reads beside replies."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import MagicMock

from layerserve.v1.models_pb2 import ModelVersion
from layerserve_server.errors import UnavailableError
from layerserve_server.extensions.page.served import Served
from layerserve_server.services.open_work import OpenWork


def test_the_folder_of_sweeps_is_read_once_for_all_versions() -> None:
    asked = []

    def sweeps() -> list[SimpleNamespace]:
        asked.append(1)
        return [SimpleNamespace(id="s")]

    def served_with(listed: Callable[[], list[SimpleNamespace]]) -> Served:
        work = OpenWork(MagicMock())
        work.add("sweep", listed)
        return Served(MagicMock(work=work), 8500)

    served = served_with(sweeps)
    versions = [ModelVersion(version=number, training_run="s" if number % 2 else "r") for number in range(1, 101)]
    assert served.origins([ModelVersion(version=1)]) == {}
    assert not asked
    assert served.origins(versions) == {number: "sweep" if number % 2 else "run" for number in range(1, 101)}
    assert len(asked) == 1

    def starting() -> list[SimpleNamespace]:
        raise UnavailableError("the server is starting")

    assert served_with(starting).origins(versions[:1]) == {1: "run"}
