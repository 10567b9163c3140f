"""The floors of layerserve_server, as ARCHITECTURE.md prints them, and that an upward import is found."""

import pytest
from floors import circles, printed_floors, room_of, sources, wrong_imports

FLOORS = printed_floors("layerserve_server")
SOURCES = sources("layerserve_server")


def test_no_import_runs_up() -> None:
    assert wrong_imports(SOURCES, FLOORS) == []


def test_no_folder_imports_itself_by_way_of_its_neighbours() -> None:
    assert circles(SOURCES) == []


def test_every_module_has_a_floor() -> None:
    assert FLOORS.keys() == {room_of(module) for module in SOURCES}


UPWARD = {
    "plain": "from layerserve_server.app import serve",
    "lazy": "def later():\n    from layerserve_server import services",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import layerserve_server.app",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_found(text: str) -> None:
    (found,) = wrong_imports({"layerserve_server.training.made_up": text}, FLOORS)
    assert found.startswith(f"layerserve_server.training.made_up:{text.count(chr(10)) + 1}: training (floor 5) imports")
