"""The README names what there is."""

from pathlib import Path

import pytest
from layergraph.layers.table import LAYERS
from layergraph.listing import listing, with_listing

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_lists_the_layers_that_there_are() -> None:
    text = README.read_text("utf-8")
    assert with_listing(text) == text, "run `make layers`"


def test_every_layer_is_listed_once() -> None:
    names = [name.strip() for line in listing().splitlines()[2:-1] for name in line.split("|")[2].split(",")]
    assert sorted(names) == sorted(LAYERS)


def test_a_file_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        with_listing("# nothing")
