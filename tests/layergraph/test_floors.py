"""The import layers of layergraph, as printed in ARCHITECTURE.md; their check finds each kind of import."""

import pytest
from floors import circles, printed_floors, room_of, sources, wrong_imports

FLOORS = printed_floors("layergraph")
SOURCES = sources("layergraph")


def test_no_import_runs_up() -> None:
    assert wrong_imports(SOURCES, FLOORS) == []


def test_no_folder_imports_itself_by_way_of_its_neighbours() -> None:
    assert circles(SOURCES) == []


def test_a_circle_of_a_file_and_two_folders_is_found() -> None:
    modules = {
        "layergraph.layers.__init__": "",
        "layergraph.layers.activations": "from layergraph.layers.attention.scores import masked_scores",
        "layergraph.layers.attention.scores": "",
        "layergraph.layers.attention.multi_head": "def later():\n    from ..core import einsum",
        "layergraph.layers.core.einsum": "from layergraph.layers import activations",
    }
    assert sorted(circles(modules)) == ["layergraph.layers.attention", "layergraph.layers.core"]
    assert circles({**modules, "layergraph.layers.activations": ""}) == []


def test_every_module_has_a_floor() -> None:
    assert FLOORS.keys() == {room_of(module) for module in SOURCES}


UPWARD = {
    "plain": "from layergraph.training.trainer import Trainer",
    "of a module": "import layergraph.training.trainer",
    "of a folder": "from layergraph import training",
    "of the package": "from layergraph import Model",
    "relative": "from ..training import trainer",
    "lazy": "def later():\n    from layergraph.training.trainer import Trainer",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from layergraph.models.model import Model",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_found(text: str) -> None:
    (found,) = wrong_imports({"layergraph.functional.made_up": text}, FLOORS)
    assert found.startswith(f"layergraph.functional.made_up:{text.count(chr(10)) + 1}: functional (floor 5) imports")


@pytest.mark.parametrize(("room", "other"), [("ops", "training"), ("training", "execution"), ("execution", "ops")])
def test_an_import_of_the_same_floor_is_found(room: str, other: str) -> None:
    made_up = {f"layergraph.{room}.made_up": f"from layergraph.{other} import anything"}
    assert len(wrong_imports(made_up, FLOORS)) == 1


@pytest.mark.parametrize(
    "text", ["from layergraph.config import options", "from layergraph.functional.tensor import Tensor", "import torch"]
)
def test_an_import_downward_or_within_the_room_is_none(text: str) -> None:
    assert wrong_imports({"layergraph.functional.made_up": text}, FLOORS) == []
