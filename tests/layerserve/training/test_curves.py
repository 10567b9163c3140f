"""Curves of runs and sweeps, as images and in notebooks."""

from __future__ import annotations

import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from layerserve import InvalidArgument
from layerserve.sweeps.sweep import SweepInfo, Trial
from layerserve.training.curves import Curves, Line, _draw
from layerserve.training.series import Best, RunSeries, SeriesByRun

matplotlib = pytest.importorskip("matplotlib")
#: A name with markup of XML, a formula that is none, characters that the font lacks, and control characters.
HOSTILE = "</text><script>$\\frac{$ \x1b 模型"


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    assert not any(one.tag.endswith("}script") for one in root.iter())
    return [text for one in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(one.itertext()))]


def series(*values: float) -> RunSeries:
    return RunSeries(np.arange(1, len(values) + 1), np.array(values), np.zeros(len(values)))


def test_hostile_names_are_text(recwarn):
    curves = Curves(HOSTILE, HOSTILE, {HOSTILE: [Line(HOSTILE, [1, 2], [1.0, math.nan])]})
    assert texts(curves.svg()).count("</text><script>$\\frac{$ \\x1b 模型") == 4
    assert not recwarn.list


def test_files_have_the_format_of_their_suffix(tmp_path):
    curves = Curves("t", "epoch", {"loss": [Line("", [1], [math.inf])], "empty": []})
    for kind, head in {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}.items():
        assert curves.save(tmp_path / f"a.{kind}").read_bytes().startswith(head)
    with pytest.raises(InvalidArgument, match=r"got .*a.jpg, expected a name that ends in .png, .svg or .pdf"):
        curves.save(tmp_path / "a.jpg")


def test_a_run_has_a_panel_for_each_log_and_is_shown_in_notebooks(client, server):
    server.train_logs = lambda epoch: {"loss": 1.0 / epoch, "val_loss": 2.0 / epoch, "val_only": 1.0}
    run = client.train("double", np.ones((8, 3)), np.ones(8), epochs=3)
    assert "<svg" not in run._repr_html_()
    run.wait()
    panels = run.curves().panels
    assert {name: [line.label for line in lines] for name, lines in panels.items()} == {
        "loss": ["training", "validation"],
        "val_only": ["training"],
    }
    assert panels["loss"][1].y == [2.0, 1.0, pytest.approx(2 / 3)]
    shown = run._repr_html_()
    assert shown.index("<svg") < shown.index("<table")
    found = client.series([run.id], ["loss"])
    assert "<svg" in found._repr_html_()
    assert found[run.id]["loss"].values[0] == 1.0


def test_without_matplotlib_notebooks_show_the_table(monkeypatch):
    found = SeriesByRun({"a": {"loss": series(1.0)}}, "epoch")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert found._repr_html_() == found.table().html()
    with pytest.raises(InvalidArgument, match="requires matplotlib: pip install matplotlib"):
        found.plot("a.png")


def test_runs_are_over_one_another_with_their_best_epochs():
    found = SeriesByRun({"a": {"val_loss": series(2.0, 1.0), "loss": series(1.0)}, "b": {"loss": series()}}, "epoch")
    curves = found.curves({"a": Best("val_loss", 2, 1.0)})
    assert list(curves.panels) == ["loss", "val_loss"]
    assert [line.label for line in curves.panels["loss"]] == ["a", "b"]
    assert [line.best for lines in curves.panels.values() for line in lines] == [None, None, (2, 1.0)]
    assert "a" in texts(curves.svg())


def test_a_run_without_logs_is_an_empty_image(tmp_path):
    assert Curves("m", "epoch", {}).save(tmp_path / "m.svg").read_text().count("<svg") == 1


def test_many_logs_are_bounded(monkeypatch):
    monkeypatch.setattr("layerserve.training.curves.MAX_PANELS", 2)
    curves = Curves("m", "epoch", {f"log{i}": [Line("run", [1], [1.0])] for i in range(300)})
    assert any("2 of 300 logs" in text for text in texts(curves.svg()))


def test_the_best_trial_of_a_sweep_stands_out():
    trials = [Trial(n, "finished", {}, f"r{n}", 1.0, {1: 1.0, 2: 0.5 + n}, "", 1.0) for n in range(3)]
    trials.append(Trial(3, "failed", {}, "r3", None, {}, "no", 1.0))
    info = SweepInfo("s", "finished", "m", 1, 2, "", "random", 4, 4, "loss", False, 1, trials, None, None, 0, "", "")
    (lines,) = info.curves().panels.values()
    assert [(line.label, line.strong, line.faint) for line in lines] == [
        ("", False, True),
        ("trial 1 (best)", True, False),
        ("", False, True),
    ]
    assert "<svg" in info._repr_html_()


def test_the_best_trial_stands_out_and_the_others_are_faint():
    panel = pytest.importorskip("matplotlib.figure").Figure().subplots()
    kinds = {"best": {"strong": True}, "other": {"faint": True}, "run": {}}
    _draw(panel, "loss", [Line(label, [1, 2], [1.0, 0.5], **kind) for label, kind in kinds.items()])
    best, other, run = panel.get_lines()
    assert best.get_linewidth() > run.get_linewidth() > other.get_linewidth()
    assert len({line.get_color() for line in (best, other, run)}) == 3
