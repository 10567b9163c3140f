"""The model runner: one batch on the device, what is kept of it, and how a file is read."""

from __future__ import annotations

import os
from types import SimpleNamespace

import layergraph
import numpy as np
import pytest
from layergraph.errors import DataError, OutOfMemoryError, UnknownTensorError, UnsupportedModelError
from layerserve_server.errors import InvalidTensorError, TooLargeError, UnknownOutputError
from layerserve_server.inference import runner
from layerserve_server.inference.runner import ModelRunner


class Plan:
    batched = True
    input_specs = (SimpleNamespace(name="x"),)

    def __init__(self, names):
        self.names = names
        self.ran = []

    def run(self, inputs):
        self.ran.append({name: array.shape for name, array in inputs.items()})
        if any((array < 0).any() for array in inputs.values()):
            raise DataError("input 'x': got -1")
        if any(np.isinf(array).any() for array in inputs.values()):
            raise OutOfMemoryError("layer 'up' (UpSampling2D): needs more memory than there is")
        return {name: inputs["x"].sum(axis=-1, keepdims=True) for name in self.names}


class Model:
    def __init__(self):
        self.plans = []
        self.output_specs = [SimpleNamespace(name="y")]

    def plan(self, outputs=None):
        if outputs and "z" in outputs:
            raise UnknownTensorError("unknown tensor 'z'")
        self.plans.append((outputs, Plan(outputs or ("y",))))
        return self.plans[-1][1]


X = np.ones((3, 2), np.float32)


def test_a_plan_is_made_once_for_the_same_outputs():
    model = Model()
    run = ModelRunner(model)
    for _ in range(3):
        np.testing.assert_array_equal(run(("y",), {"x": X})["y"], [[2], [2], [2]])
    run(("y", "hidden"), {"x": X})
    assert [outputs for outputs, _ in model.plans] == [("y",), ("y", "hidden")]


def test_requests_for_all_outputs_run_the_plan_that_is_tuned():
    """Also of a model with an unused input, which requests for outputs by name may lack."""
    x, spare = layergraph.Input((2,), name="x"), layergraph.Input((2,), name="spare")
    model = layergraph.Model([x, spare], layergraph.layers.Dense(3, name="y")(x))
    run, ran = ModelRunner(model), []
    for name, plan in (("tuned", model.plan()), ("other", model.plan(("y",)))):
        plan.run = lambda arrays, name=name, plan=plan: ran.append(name) or type(plan).run(plan, arrays)
    whole, part = run(("y",), {"x": X, "spare": X}), run(("y",), {"x": X})
    assert ran == ["tuned", "other"]
    np.testing.assert_allclose(whole["y"], part["y"], rtol=1e-6)


@pytest.mark.parametrize("threads", [None, 3])
def test_a_model_may_have_its_own_number_of_threads(threads):
    import torch

    usual, seen = torch.get_num_threads(), []
    model = Model()
    run = ModelRunner(model, threads)
    run(("y",), {"x": X})
    model.plans[0][1].run = lambda inputs: seen.append(torch.get_num_threads()) or {}
    run(("y",), {"x": X})
    assert seen == [threads or usual]
    assert torch.get_num_threads() == usual
    model.plans[0][1].run = lambda inputs: 1 // 0
    with pytest.raises(ZeroDivisionError):
        run(("y",), {"x": X})
    assert torch.get_num_threads() == usual


def warm(tmp_path, specs, rows=5):
    """What a warm-up runs, as the shape of each input."""
    model = Model()
    plan = model.plan()
    plan.input_specs, plan.output_specs = specs, [SimpleNamespace(name="y")]
    model.input_names = [spec.name for spec in specs]
    model.plan = lambda outputs=None: plan
    done = ModelRunner(model).warm_up(rows, tmp_path / "1" / "model.keras")
    return done, plan.ran


def test_a_warm_up_computes_one_row_and_a_batch(tmp_path):
    spec = SimpleNamespace(name="x", shape=(None, 2), dtype="float32")
    whole = SimpleNamespace(name="x", shape=(None, 2), dtype="int32")
    for one in (spec, whole):
        done, ran = warm(tmp_path, [one])
        assert done
        assert ran[-2:] == [{"x": (1, 2)}, {"x": (5, 2)}]


def test_a_warm_up_takes_the_golden_inputs(tmp_path):
    (tmp_path / "1").mkdir()
    arrays = {"input/x": np.full((3, 2), 7, np.float32), "output/y": np.zeros((3, 1), np.float32)}
    np.savez(tmp_path / "1" / "golden.npz", **arrays)
    done, ran = warm(tmp_path, [SimpleNamespace(name="x", shape=(None, 2), dtype="float32")])
    assert (done, ran) == (True, [{"x": (1, 2)}, {"x": (5, 2)}])


def test_a_model_without_inputs_that_can_be_drawn_is_not_warmed_up(tmp_path):
    done, ran = warm(tmp_path, [SimpleNamespace(name="x", shape=(None, 2), dtype="string")])
    assert (done, ran) == (False, [])


def test_callers_can_not_fill_the_memory_with_choices_of_outputs():
    run = ModelRunner(Model())
    for number in range(3 * runner.MAX_KEPT):
        run((f"y{number}",), {"x": X})
        assert len(run._plans) <= runner.MAX_KEPT


def test_no_rows_give_no_rows_of_the_right_shape_and_type():
    """Many kernels refuse to run on no rows."""
    model = Model()
    result = ModelRunner(model)(("y",), {"x": np.zeros((0, 2), np.float32)})
    assert (result["y"].shape, result["y"].dtype) == ((0, 1), np.float32)
    assert model.plans[0][1].ran == [{"x": (1, 2)}]


@pytest.mark.parametrize("unknown_terms", [0, 1])
@pytest.mark.parametrize("dtype", ["string", "int64"])
def test_no_rows_of_terms_give_no_rows(dtype, unknown_terms):
    """Also where a row of zeros or of empty texts is refused, since no term is unknown."""
    x = layergraph.Input((2,), name="x", dtype=dtype)
    kind, term = ("StringLookup", "a") if dtype == "string" else ("IntegerLookup", 5)
    lookup = getattr(layergraph.layers, kind)(vocabulary=[term], num_oov_indices=unknown_terms, name="y")
    run = ModelRunner(layergraph.Model(x, lookup(x)))
    result = run(("y",), {"x": np.zeros((0, 2), object if dtype == "string" else dtype)})["y"]
    assert result.shape == (0, 2)
    assert result.dtype == np.int64


def test_a_model_without_a_row_axis_gets_what_came():
    model = Model()
    run = ModelRunner(model)
    model.plan = lambda outputs: plan
    plan = Plan(("y",))
    plan.batched = False
    run(("y",), {"x": np.zeros((0, 2), np.float32)})
    assert plan.ran == [{"x": (0, 2)}]


def test_errors_of_the_model_are_those_of_the_request():
    run = ModelRunner(Model())
    with pytest.raises(InvalidTensorError, match="input 'x': got -1"):
        run(("y",), {"x": -X})
    with pytest.raises(TooLargeError, match="layer 'up'"):
        run(("y",), {"x": X * np.float32("inf")})
    with pytest.raises(UnknownOutputError, match="unknown tensor 'z'"):
        run.plan(["z"])


def test_outputs_that_are_asked_for_twice_are_computed_once_and_none_means_all():
    model = Model()
    run = ModelRunner(model)
    run.plan(["a", "b", "a"])
    run.plan([])
    assert [outputs for outputs, _ in model.plans] == [("a", "b"), None]


def test_only_outputs_of_the_model_that_need_all_padded_inputs_are_padded():
    run = ModelRunner(Model())
    inputs = [SimpleNamespace(name="x"), SimpleNamespace(name="other")]
    assert run.padding(["y"], inputs) is None
    run._padding = padding = SimpleNamespace(fills={"x": 0})
    assert run.padding(["y"], inputs) is padding
    assert run.padding(["y", "hidden"], inputs) is None
    assert run.padding(["y"], inputs[1:]) is None


@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize("other", [True, False], ids=["another process", "this process"])
def test_a_model_is_compared_with_its_golden_file(tmp_path, monkeypatch, proof, other):
    import layergraph
    from layergraph import golden

    steps = []
    model = SimpleNamespace(walk_layers=list)
    path = tmp_path / "model.keras"
    if proof:
        (tmp_path / "model.golden.npz").symlink_to("nowhere")  # one that can't be read isn't missing
    monkeypatch.setattr(layergraph, "load_model", lambda path: steps.append(("this process", path)) or model)
    monkeypatch.setattr(golden, "check_golden", lambda *given: steps.append(("checked", *given)))
    read = (lambda path: steps.append(("another process", path)) or model) if other else None
    assert runner.load_model(path, read, 0.5, 0.25) is model
    assert steps == [
        ("another process" if other else "this process", path),
        *([("checked", model, tmp_path / "model.golden.npz", 0.5, 0.25)] if proof else []),
    ]


def test_plugins_are_those_of_the_settings_and_the_children_get_them(monkeypatch):
    from layergraph import plugins

    monkeypatch.setattr(plugins, "load_plugins", list)
    monkeypatch.setenv("LAYERSERVE_PLUGINS", "from.parent")
    assert runner.load_plugins() == ["from.parent"]
    assert runner.load_plugins(" a.b, c ,,") == ["a.b", "c"]
    assert os.environ["LAYERSERVE_PLUGINS"] == " a.b, c ,,"
    assert runner.load_plugins("") == []


@pytest.mark.parametrize(("count", "set_to"), [(0, []), (3, [3])])
def test_threads_are_set_unless_torch_chooses(monkeypatch, count, set_to):
    import torch

    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    runner.set_threads(count)
    assert found == set_to


def test_a_file_without_the_vocabulary_of_a_layer_is_refused(tmp_path):
    # `.h5` files of Keras hold none that was adapted: no request would succeed.
    text = layergraph.Input((1,), dtype="string", name="text")
    words = layergraph.layers.TextVectorization(output_sequence_length=3, name="words")(text)
    terms = layergraph.layers.StringLookup(name="terms")(text)
    path = tmp_path / "net.h5"
    layergraph.Model(text, [words, terms]).save(path)
    with pytest.raises(UnsupportedModelError) as refused:
        runner.load_model(path)
    assert [problem.partition(";")[0] for problem in refused.value.problems] == [
        "layer 'words' (TextVectorization): has no vocabulary",
        "layer 'terms' (StringLookup): has no vocabulary",
    ]
