"""The table that `model.summary()` prints."""

from __future__ import annotations

import html

import pytest
from layergraph import Input, Model
from layergraph.layers import Add, BatchNormalization, Dense


def shared_model() -> Model:
    a, b = Input((4,), name="a"), Input((3, 4), name="b")
    shared = Dense(4, name="shared")
    first, second = shared(a), shared(b)
    normalized = BatchNormalization(name="norm")(second)
    wide = Dense(300, name="wide", trainable=False)(first)
    return Model([a, b], [wide, Add(name="sum")([normalized, second])], name="m")


def test_a_notebook_shows_the_summary_and_no_html_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    model = shared_model()
    model.summary()
    assert html.unescape(model._repr_html_() or "") == f"<pre>{capsys.readouterr().out[:-1]}</pre>"
    x = Input((4,), name="x")
    shown = Model(x, Dense(1, name="<b>&")(x))._repr_html_() or ""
    assert "<b>" not in shown
    assert "&lt;b&gt;&amp; (Dense)" in shown


def test_layers_have_their_shapes_weights_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    shared_model().summary()
    lines = capsys.readouterr().out.splitlines()
    rule = lines[1]
    assert lines[0] == 'Model: "m"'
    assert set(rule) == {"-"}
    assert lines[3] == lines[-4] == rule
    cells = [[cell for cell in line.split("  ") if cell] for line in (lines[2], *lines[4:-4])]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["Layer (type)", "Output Shape", "Param #", "Connected to"],
        ["a (InputLayer)", "(None, 4)", "0"],
        ["b (InputLayer)", "(None, 3, 4)", "0"],
        ["shared (Dense)", "(None, 4); (None, 3, 4)", "20", "a, b"],
        ["norm (BatchNormalization)", "(None, 3, 4)", "16", "shared:1"],
        ["wide (Dense)", "(None, 300)", "1,500", "shared"],
        ["sum (Add)", "(None, 3, 4)", "0", "norm, shared:1"],
    ]
    assert lines[-3:] == ["Total params: 1,536", "Trainable params: 28", "Non-trainable params: 1,508"]
    starts = {line.index(start) for line, start in zip(lines[4:-4], ["(None"] * 6, strict=True)}
    assert starts == {lines[2].index("Output Shape")}, "columns begin one below the other"
    assert len(rule) == max(map(len, [lines[2], *lines[4:-4]]))


def test_the_text_goes_where_it_is_wanted() -> None:
    said: list[str] = []
    shared_model().summary(print_fn=said.append)
    assert len(said) == 1
    assert said[0].startswith('Model: "m"\n')
