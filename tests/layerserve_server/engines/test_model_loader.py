"""Tests of loading by the settings: engines, precision, threads, and what was kept."""

import os
from functools import partial

import pytest
from layerserve_server.engines import loaders, model_loader
from layerserve_server.engines.model_loader import ModelLoader, make_tuner, torch_threads
from layerserve_server.extensions.installed import Settings
from layerserve_server.inference import runner
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.wiring import make_imports

#: Nothing is done in another process.
JOBS = Jobs()


@pytest.mark.parametrize(("cores", "workers", "each"), [(None, 2, 1), (2, 2, 1), (9, 2, 4), (2, 5, 1)])
def test_processes_share_the_cores(monkeypatch, cores, workers, each):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert torch_threads(Settings(workers=workers)) == each
    assert torch_threads(Settings(workers=workers, compute_threads=7)) == 7


def test_engines_are_tuned_unless_one_is_named_or_there_is_no_time(tmp_path):
    settings = Settings(path=tmp_path, tuning_seconds=3.5, compute_threads=2, tuning_max_bytes=7)
    tuner = make_tuner(settings, JOBS)
    assert (tuner._seconds, tuner._threads, tuner._max_bytes) == (3.5, 2, 7)
    state = tmp_path / ".layerserve"
    assert tuner._process._folders == {"imports": None, "spare": None, "runs": str(state / "runs")}
    assert make_tuner(Settings(tuning_seconds=0), JOBS) is None
    imports = make_imports(settings, JOBS, tmp_path / "spare")
    folders = {"imports": str(state / "imports"), "spare": str(tmp_path / "spare"), "runs": str(state / "runs")}
    assert make_tuner(settings, JOBS, imports)._process._folders == folders


def test_files_are_read_as_the_settings_say(tmp_path, monkeypatch):
    assert make_imports(Settings(probe_files=False), JOBS) is None
    imports = make_imports(Settings(path=tmp_path), JOBS)
    model = ModelSettings(golden_rtol=0.5, golden_atol=0.25)
    for given, read in ((None, None), (imports, imports.load)):
        load = ModelLoader(Settings(tuning_seconds=0), JOBS, imports=given).configured(model)
        assert isinstance(load, partial)
        assert load.func is runner.load_model
        assert load.keywords == {"read": read, "rtol": 0.5, "atol": 0.25}
    assert imports.folder == tmp_path / ".layerserve" / "imports"
    assert imports.spare is None
    assert make_imports(Settings(path=tmp_path), JOBS, tmp_path / "spare").spare == tmp_path / "spare"

    def own(path):
        raise AssertionError

    assert ModelLoader(Settings(), JOBS, own, imports).configured(model) is own
    made = []
    for name in ("pinning", "reducing", "reopening"):
        monkeypatch.setattr(loaders, name, lambda *given, name=name: made.append((name, *given)) or name)
    monkeypatch.setattr(model_loader, "_chosen_engines", lambda settings: "engines")
    settings = Settings(path=tmp_path, engine="openvino", precision="int8", compute_threads=3)
    loader = ModelLoader(settings, JOBS, own)
    assert loader.configured(ModelSettings()) == "reducing"
    assert made.pop(0) == ("pinning", own, "openvino", 3, "engines")
    assert made.pop(0) == ("reducing", "pinning", "int8", 3, loader._graphs, None, None)
    assert loader._graphs._folders.folder == tmp_path / ".layerserve" / "quantized"
    made.clear()
    model = ModelSettings(engine="eager", precision="bfloat16", compute_threads=2, golden_rtol=0.5, golden_atol=0.25)
    assert loader.configured(model) == "reducing"
    assert made.pop(0) == ("pinning", own, "eager", 2, "engines")
    assert made == [("reducing", "pinning", "bfloat16", 2, loader._graphs, 0.5, 0.25)]
    model = ModelSettings(engine="auto", precision="float32")
    assert ModelLoader(settings, JOBS, own).configured(model) is own
    made.clear()
    # Engines that were chosen at an earlier start, unless the settings name one, or none is chosen.
    loader = ModelLoader(Settings(path=tmp_path, compute_threads=3, tuning_seconds=1.0), JOBS, imports=imports)
    assert loader.configured(ModelSettings()).keywords["read"] == "reopening"
    assert made == [("reopening", imports.load, 3, "engines")]
    limited = Settings(path=tmp_path, tuning_seconds=1.0, max_model_bytes=1 << 30)
    assert ModelLoader(limited, JOBS, imports=imports).configured(ModelSettings()).keywords["read"] == imports.load
    loader.configured(ModelSettings(engine="eager"))
    loader.configured(ModelSettings(precision="int8"))
    assert [name for name, *_ in made] == ["reopening", "pinning", "reducing"]
