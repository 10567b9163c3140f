"""Shadow versions: their results are compared and counted, and callers notice nothing of them."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.extensions.installed import model_settings
from layerserve_server.extensions.mirroring import shadow as module
from layerserve_server.extensions.mirroring.shadow import Answered, Shadow, Shadows, shadow_of, shadow_version
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.model_settings import ModelSettingsError, parse_settings
from repositories import repository_of

OUTCOMES = ("equal", "different", "failed", "dropped")


@pytest.fixture
def settings(put, tmp_path):
    """Version 1, the default. Writes settings with version 2, whose results differ by `offset`, as the shadow."""
    put(version=1, offset=10)

    def write(offset=10.0, text="", **fields):
        put(version=2, offset=offset, **fields)
        folder = tmp_path / "models" / "double"
        (folder / "labels.json").write_text('{"next": 2}')
        own = "" if "shadow =" in text else 'shadow = "next"\nshadow_share = "100 %"\n'
        (folder / "layerserve.toml").write_text(f"default_version = 1\n{own}{text}")

    return write


def message(x=((1, 1),), **model):
    spec = tensor_pb2.ModelSpec(name="double", **model)
    return prediction_pb2.PredictRequest(model=spec, inputs=[tensors.encode(np.array(x, np.float32), "x")])


def ask(channel, **fields):
    reply = prediction_pb2_grpc.PredictionServiceStub(channel).Predict(message(**fields), timeout=30)
    assert reply.model.version == fields.get("version", 1)
    return tensors.decode(reply.outputs[0])


@pytest.fixture
def ask_in_turn(monkeypatch, wait_until):
    """Sends requests, each after the one before was put in the queue for its comparison (or dropped).

    A queue that isn't empty makes the model busy: its requests aren't compared.
    """
    put_all, put = [], module.Shadows.put

    def counted(self, one, *, busy):
        put(self, one, busy=busy)
        put_all.append(one)

    monkeypatch.setattr(module.Shadows, "put", counted)

    def ask_one(channel, *, chosen=True):
        before = len(put_all)
        ask(channel)
        wait_until(lambda: len(put_all) == before + chosen)

    return ask_one


def counts(app, version="2"):
    found = {}
    for outcome in OUTCOMES:
        labels = {"model": "double", "version": version, "outcome": outcome}
        value = app.metrics.registry.get_sample_value("layerserve_shadow_requests_total", labels)
        if value:
            found[outcome] = value
    return found


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_equal_results_are_counted_and_the_answer_is_the_default_version_s(
    settings, start, connect, wait_until, transport
):
    settings()
    app = start(transport=transport)
    channel = connect(app)
    # The first message is read by protobuf, later ones are known by their bytes.
    for number in range(1, 4):
        assert ask(channel).tolist() == [[12, 12]]
        wait_until(lambda number=number: counts(app) == {"equal": number})


@pytest.mark.parametrize(
    ("offset", "tolerance", "outcome"),
    [
        (10.006, "", "equal"),
        (10.1, "", "different"),
        (10.1, "shadow_rtol = 0.01", "equal"),
        (10.1, "shadow_atol = 0.2", "equal"),
        (10.006, "shadow_rtol = 0\nshadow_atol = 0", "different"),
    ],
)
def test_results_are_equal_within_the_tolerances(settings, start, connect, wait_until, offset, tolerance, outcome):
    settings(offset, tolerance)
    app = start()
    ask(connect(app))
    wait_until(lambda: counts(app) == {outcome: 1})


def test_the_largest_differences_are_counted(settings, start, connect, wait_until):
    settings(offset=13)
    app = start()
    ask(connect(app), x=((1, 1), (2, 90)))
    wait_until(lambda: counts(app) == {"different": 1})

    def total(name):
        return app.metrics.registry.get_sample_value(f"{name}_sum", {"model": "double", "version": "2"})

    assert total("layerserve_shadow_absolute_difference") == pytest.approx(3)
    assert total("layerserve_shadow_relative_difference") == pytest.approx(3 / 190)


def test_a_request_that_names_a_version_or_label_is_not_compared(settings, start, connect, wait_until):
    settings()
    app = start()
    channel = connect(app)
    ask(channel, version=1)
    ask(channel, version=2)
    assert ask(channel).tolist() == [[12, 12]]
    wait_until(lambda: counts(app) == {"equal": 1})


def test_a_version_number_and_a_share(settings, start, connect, monkeypatch, wait_until, ask_in_turn):
    settings(text='shadow = 2\nshadow_share = "30 %"')
    app = start()
    channel = connect(app)
    drawn = [0.1, 0.4, 0.29, 0.9, 0.3]
    monkeypatch.setattr(module, "random", SimpleNamespace(random=iter(drawn).__next__))
    for number in drawn:
        ask_in_turn(channel, chosen=number < 0.3)
    wait_until(lambda: counts(app) == {"equal": 2})


def test_settings_are_checked():
    for text in ("shadow = 0", 'shadow = "a b"', "shadow = 1.5", 'shadow_share = "x"', "shadow_rtol = -1"):
        with pytest.raises(ModelSettingsError, match="shadow"):
            parse_settings(text.encode(), "layerserve.toml", model_settings())


def test_a_shadow_that_fails_fails_nobody(settings, start, connect, wait_until):
    settings()
    app = start()
    channel = connect(app)
    # The model refuses negative numbers in the shadow version only.
    with app.repository.leases.lease("double", 1) as version:
        version.model.plan = lambda outputs=None: Lenient(version.model, outputs)
        version.runner._plans.clear()
        version.endpoints.clear()
    assert ask(channel, x=((-1, 1),)).tolist() == [[8, 12]]
    wait_until(lambda: counts(app) == {"failed": 1})


class Lenient:
    """Computes what the model does, also for negative numbers."""

    def __init__(self, model, outputs):
        self._model = model
        self.batched, self.input_specs, self.output_specs = True, model.input_specs, model.output_specs

    def run(self, inputs):
        return {"y": inputs["x"] * 2 + self._model.offset}


def test_a_shadow_that_is_slow_delays_nobody_and_the_rest_is_dropped(settings, start, connect, wait_until, ask_in_turn):
    settings()
    app = start()
    channel = connect(app)
    with app.repository.leases.lease("double", 2) as version:
        gate = version.model.gate
        gate.clear()
        for _ in range(module.MAX_WAITING + 11):
            ask_in_turn(channel)
        # One is being computed, so many wait.
        wait_until(lambda: counts(app) == {"dropped": 10})
        gate.set()
    wait_until(lambda: counts(app) == {"dropped": 10, "equal": module.MAX_WAITING + 1})


def test_large_requests_and_old_ones_are_dropped(settings, start, connect, wait_until, monkeypatch):
    settings()
    app = start()
    channel = connect(app)
    monkeypatch.setattr(module, "MAX_INPUT_BYTES", 8)
    assert ask(channel, x=((1, 1), (2, 2))).tolist() == [[12, 12], [14, 14]]
    wait_until(lambda: counts(app) == {"dropped": 1})
    monkeypatch.setattr(module, "MAX_AGE_SECONDS", -1.0)
    ask(channel)
    wait_until(lambda: counts(app) == {"dropped": 2})


@pytest.mark.parametrize(
    "text", ['shadow = "nothing"', "shadow = 9", 'shadow = "next"\nshadow_share = "0 %"', "shadow = 1"]
)
def test_a_shadow_that_is_not_there_costs_nothing(settings, start, connect, text):
    settings(text=text)
    app = start()
    assert shadow_in(app) is None
    assert ask(connect(app)).tolist() == [[12, 12]]
    assert counts(app) == {}


def test_its_version_stays_loaded_and_its_series_go_with_it(settings, start, connect, wait_until, tmp_path):
    settings(text='shadow = 2\nshadow_share = "100 %"')
    app = start(max_old_versions=0)
    assert shadow_in(app) == Shadow("double", 2, 1.0, 1e-3, 1e-5)
    app.repository.scan()
    ask(connect(app))
    wait_until(lambda: counts(app) == {"equal": 1})
    (tmp_path / "models" / "double" / "layerserve.toml").write_text("default_version = 1")
    (tmp_path / "models" / "double" / "labels.json").unlink()
    app.repository.scan()
    assert shadow_in(app) is None
    wait_until(lambda: counts(app) == {})


# Without a server.


def shadow_in(app):
    return shadow_of(app.repository.catalogue.models["double"])


class Observer:
    def __init__(self):
        self.outcomes, self.differences = [], []

    def shadowed(self, model, version, outcome):
        self.outcomes.append(outcome)

    def shadow_differed(self, model, version, absolute, relative):
        self.differences.append((absolute, relative))


@pytest.fixture
def shadows():
    one = Shadows(SimpleNamespace(catalogue=Catalogue()), Observer())
    yield one
    one.close()


def answered(results, size=1):
    inputs = {"x": np.ones(size, np.float32)}
    return Answered(Shadow("m", 2, 1.0, 1e-3, 1e-5), None, inputs, tuple(results), results, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome", "differences"),
    [
        ([1.0, np.nan], [1.0, np.nan], "equal", (0, 0)),
        ([1.0, np.nan], [1.0, 2.0], "different", (0, 0)),
        ([np.inf, 1.0], [np.inf, 1.5], "different", (0.5, 0.5)),
        ([0.0], [1.0], "different", (1, 1)),
        ([0.0], [0.0], "equal", (0, 0)),
        ([], [], "equal", (0, 0)),
        ([1, 2], [1, 3], "different", (1, 0.5)),
        ([b"a"], [b"a"], "equal", (0, 0)),
        ([b"a"], [b"b"], "different", (0, 0)),
    ],
)
def test_comparison(shadows, ours, theirs, outcome, differences):
    dtype = object if ours and isinstance(ours[0], bytes) else None
    one = answered({"y": np.array(ours, dtype)})
    assert shadows._compared(one, [np.array(theirs, dtype)]) == outcome
    assert shadows._metrics.differences == [pytest.approx(differences)]


def test_memory_is_bounded_by_what_arrays_are_a_part_of(shadows, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 10_000)
    gate = threading.Event()
    monkeypatch.setattr(shadows, "_outcome", lambda one: gate.wait(30) and "equal")
    batch = np.ones((1000, 1), np.float64)
    one = answered({"y": batch[:1]})
    assert one.size == 8004
    shadows.put(one, busy=False)
    shadows.put(one, busy=False)
    assert shadows._metrics.outcomes == ["dropped"]
    shadows.put(answered({"y": np.ones(1)}), busy=True)
    assert shadows._metrics.outcomes == ["dropped", "dropped"]
    gate.set()


def test_texts_count_with_their_lengths(shadows, monkeypatch):
    monkeypatch.setattr(module, "MAX_INPUT_BYTES", 1000)
    text = np.array([[b"a" * 995]], object)
    shadow = Shadow("m", 2, 1.0, 1e-3, 1e-5)
    assert shadows._begin(shadow, None, {"x": text}, "", "") is None
    assert shadows._metrics.outcomes == ["dropped"]
    assert shadows._begin(shadow, None, {"x": np.array([[b"a" * 990]], object)}, "", "") is not None
    assert answered({"y": text}).size - answered({"y": np.ones((1, 1))}).size == 995


def version(number=1, queued_rows=0):
    return SimpleNamespace(version=number, queue=SimpleNamespace(queued_rows=queued_rows))


def test_a_model_with_requests_in_its_queue_is_busy(shadows):
    shadow = Shadow("m", 2, 1.0, 1e-3, 1e-5)
    results = {"y": np.ones(1)}
    for rows in (0, 1):
        shadows._begin(shadow, None, {}, "", "")(version(queued_rows=rows), ("y",), results)
    wait = shadows._metrics.outcomes
    assert wait.count("dropped") == 1
    # Neither an error nor the shadow's own answer is compared.
    shadows._begin(shadow, None, {}, "", "")(version(), ("y",), None)
    shadows._begin(shadow, None, {}, "", "")(version(number=2), ("y",), results)
    shadows.close()
    assert shadows._metrics.outcomes.count("dropped") == 1


def test_inputs_that_the_batch_may_change_are_copied(shadows, monkeypatch):
    put = []
    monkeypatch.setattr(shadows, "put", lambda one, busy: put.append(one))
    ours, theirs = np.ones(2), np.frombuffer(b"12345678", np.uint8)
    tell = shadows._begin(Shadow("m", 2, 1.0, 0, 0), None, {"ours": ours, "theirs": theirs}, "", "")
    ours[:] = 7
    tell(version(), (), {})
    assert put[0].inputs["ours"].tolist() == [1, 1]
    assert put[0].inputs["theirs"] is theirs


def test_an_error_of_the_comparison_reaches_nobody(shadows, monkeypatch, caplog):
    def fails(one, busy):
        raise MemoryError

    monkeypatch.setattr(shadows, "put", fails)
    shadows._begin(Shadow("m", 2, 1.0, 0, 0), None, {}, "", "")(version(), (), {})
    assert "can't be compared" in caplog.text


@pytest.mark.parametrize("others", [1, 3])
def test_all_outputs_are_compared_whichever_differs(shadows, others):
    """One that is equal says nothing about those before and after it."""
    same, different = ([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0], [1.5, 2.0])
    text, other_text = ([b"a"], [b"a"]), ([b"a"], [b"b"])
    equal = [same, text] * others
    for wrong, differences in ((different, (0.5, 0.25)), (other_text, (0, 0))):
        for at in range(len(equal) + 1):
            pairs = [*equal[:at], wrong, *equal[at:]]
            ours, theirs = (
                [np.array(one, object if isinstance(one[0], bytes) else None) for one in side]
                for side in zip(*pairs, strict=True)
            )
            names = [f"y{number}" for number in range(len(pairs))]
            assert shadows._compared(answered(dict(zip(names, ours, strict=True))), theirs) == "different", at
            # The largest of all outputs, not of the last one.
            assert shadows._metrics.differences[-1] == pytest.approx(differences)


def test_an_output_of_another_shape_is_seen_wherever_it_is(shadows):
    ours = {"a": np.ones(2), "b": np.ones(3)}
    for theirs in ([np.ones(1), np.ones(3)], [np.ones(2), np.ones(4)], [np.ones(2)], [np.ones(3), np.ones(2)]):
        assert shadows._compared(answered(ours), theirs) == "different"
    assert shadows._compared(answered(ours), list(ours.values())) == "equal"


def test_with_a_limit_of_memory_it_is_loaded_by_requests(put, tmp_path, load_fake):
    for version in (1, 2):
        put(version=version)
    (tmp_path / "models" / "double" / "layerserve.toml").write_text("shadow = 1")
    options = {"max_bytes": 1 << 30, "defaults": model_settings()()}
    repository = repository_of(tmp_path / "models", lambda path, _: load_fake(path), **options)
    repository.catalogue.routes.append(shadow_version)
    repository.scan()
    assert shadow_of(repository.catalogue.models["double"]).version == 1
    assert {one.version: (one.answers, one.memory_bytes) for one in repository.catalogue.describe()} == {
        1: (True, 0),
        2: (True, 0),
    }
    repository.close()
