"""The tables of layers and operations, and the names in `layergraph.layers`."""

import layergraph.layers
import pytest
from layergraph.functional.layer import Layer
from layergraph.layers.table import LAYERS, merged
from layergraph.ops.table import OPERATIONS

FUNCTIONS = {"add", "average", "concatenate", "dot", "maximum", "minimum", "multiply", "subtract"}


def test_every_layer_is_named_by_the_package() -> None:
    named = {name: getattr(layergraph.layers, name) for name in layergraph.layers.__all__}
    aliases = {name for name, cls in named.items() if isinstance(cls, type) and cls.__name__ != name}
    assert named.keys() - aliases == {*LAYERS, *FUNCTIONS, "Input", "InputSpec", "Layer", "Lambda", "Wrapper"}
    assert all(getattr(layergraph.layers, name) is cls for name, cls in LAYERS.items())


def test_classes_have_the_names_of_the_table() -> None:
    assert {name for name, cls in LAYERS.items() if cls.__name__ != name} == set()
    assert {name for name, cls in OPERATIONS.items() if cls.__name__ != name} <= {"Amax", "Amin"}
    assert all(issubclass(cls, Layer) for cls in [*LAYERS.values(), *OPERATIONS.values()])


def test_operations_are_told_from_layers() -> None:
    assert all(cls.is_operation for cls in OPERATIONS.values())
    assert not any(cls.is_operation for cls in LAYERS.values())


def test_a_name_is_in_the_table_once() -> None:
    with pytest.raises(ValueError, match="Dense"):
        merged([{"Dense": LAYERS["Dense"]}, {"Dense": LAYERS["Dense"]}])
