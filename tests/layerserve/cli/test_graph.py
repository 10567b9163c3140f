"""The command that draws models and files."""

from __future__ import annotations

import shutil
import sys

import pytest
from layergraph import Input, Model, layers
from layerserve.cli import extensions
from layerserve.cli.graph import file_shapes

graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz isn't installed")


@pytest.fixture(scope="module", name="file")
def _file(tmp_path_factory):
    """A file of a model with a shared nested model, two outputs, and a layer named as an address."""
    inner_input = Input((4,), name="a")
    inner = Model(inner_input, layers.Dense(3, name="deep:0:1")(inner_input), name="inner")
    a, b = Input((4,), name="a"), Input((4,), name="b")
    both = layers.Concatenate(name="both")([inner(a), inner(b)])
    path = tmp_path_factory.mktemp("graph") / "model.keras"
    Model([a, b], [layers.Dense(2, name="head")(both), both]).save(path)
    return path


def test_a_served_model_is_written_by_its_suffix(cli, tmp_path):
    status, out, _ = cli("graph shared --output shared.dot --rankdir LR --limit 3")
    assert (status, out) == (0, "wrote shared.dot\n")
    drawn = (tmp_path / "shared.dot").read_text()
    assert "rankdir=LR" in drawn
    assert "2 more nodes" in drawn


@graphviz
def test_svg_goes_to_standard_output_that_is_no_terminal(cli, monkeypatch):
    status, out, _ = cli("graph shared --label stable")
    assert status == 1
    status, out, _ = cli("graph shared")
    assert status == 0
    assert out.startswith("<svg")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    status, _, err = cli("graph shared")
    assert status == 1
    assert "--output: got none" in err


def test_a_file_is_drawn_without_a_server(cli, file, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSERVE_ADDRESS", "127.0.0.1:1")
    shutil.copy(file, tmp_path)  # its folder's name may have spaces
    assert cli(f"graph {file.name} --output m.dot")[0] == 0
    drawn = (tmp_path / "m.dot").read_text()
    assert drawn.count("inner, node") == 2
    assert drawn.count("deep:0:1") == 1
    shapes = file_shapes(str(file))
    assert [(one.layer, one.node_index) for one in shapes.output_tensors] == [("head", 0), ("both", 0)]
    assert shapes["inner"].nested_outputs[0].layer == "inner/deep:0:1"
    assert shapes["both"].nodes[0].inputs[1].node_index == 1
    assert shapes["both"].nodes[0].inputs[1].argument


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("graph nope --output m.dot", "unknown model 'nope'"),
        ("graph shared --output m.gif", "graph: got the path m.gif, expected one that ends in .svg, .png, .pdf, .dot"),
        ("graph shared --output m.dot --rankdir XY", "rankdir: got 'XY'"),
        ("graph shared --output m.dot --plugins p", "got --plugins with the served model shared"),
        ("graph m.keras --output m.dot --version 1", "got --version or --label with the file m.keras"),
        ("graph ./nothing --output m.dot", "./nothing: "),
        ("graph bad.h5 --output m.dot", "bad.h5: "),
    ],
)
def test_what_cannot_be_drawn_is_refused(cli, tmp_path, line, text):
    (tmp_path / "bad.h5").write_bytes(b"no file of HDF5")
    status, _, err = cli(line)
    assert status == 1
    assert text in err
    assert not (tmp_path / "m.dot").exists()


def test_a_missing_package_ends_the_command_with_its_line(cli, monkeypatch):
    monkeypatch.setattr(extensions, "run", lambda name, arguments: 2)
    assert cli("graph m.keras --output m.dot")[0] == 2
