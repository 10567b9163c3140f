"""Sequences of different lengths in one batch: where the settings say so and masks make it exact, else refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.execution.sequence_padding import SequencePadding
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.extensions.installed import Settings
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.queue import QueuedRequest
from layerserve_server.inference.runner import load_model


class Watched:
    """Adds each sequence's sum to its steps, and remembers the shapes of batches; waits for `gate`."""

    def __init__(self):
        self.gate, self.running, self.shapes = threading.Event(), threading.Event(), []

    def __call__(self, outputs, arrays):
        self.running.set()
        assert self.gate.wait(30)
        x = arrays["x"]
        self.shapes.append(x.shape)
        total = x.sum(1)
        return {"steps": x + total[:, None], "total": total}

    def batch_ran(self, rows, requests, seconds):
        pass

    def requests_waited(self, seconds):
        pass


PADDING = SequencePadding({"x": 0}, {"steps": "x"}, equal_lengths=False, unmasked=frozenset())


def put(queue, x, answers):
    arrays = {"x": x}
    group = PADDING.group(arrays)
    queue.submit(QueuedRequest(("steps", "total"), arrays, len(x), True, answers.append, group=group, padding=PADDING))


def test_sequences_up_to_one_power_of_two_are_one_batch_and_cut_back(wait_until):
    watched, answers = Watched(), []
    queue = BatchQueue("m", watched, max_batch_rows=8, max_queue_rows=100, observer=watched)
    x = {length: np.arange(2 * length, dtype=np.float32).reshape(2, length) + 1 for length in (1, 5, 7, 30, 8)}
    put(queue, x[1], answers)
    assert watched.running.wait(30)
    for length in (5, 30, 7, 8):
        put(queue, x[length], answers)
    watched.gate.set()
    wait_until(lambda: len(answers) == len(x))
    queue.close()
    assert watched.shapes == [(2, 1), (6, 8), (2, 30)]
    for pending in answers:
        own = pending.arrays["x"]
        np.testing.assert_array_equal(pending.results["total"], own.sum(1))
        np.testing.assert_array_equal(pending.results["steps"], own + own.sum(1)[:, None])


def test_a_request_larger_than_a_batch_is_padded_in_each(wait_until):
    watched, answers = Watched(), []
    queue = BatchQueue("m", watched, max_batch_rows=4, max_queue_rows=100, observer=watched)
    put(queue, np.ones((1, 1), np.float32), answers)
    assert watched.running.wait(30)
    for rows, length in ((5, 6), (3, 8)):
        put(queue, np.ones((rows, length), np.float32), answers)
    watched.gate.set()
    wait_until(lambda: len(answers) == 3)
    queue.close()
    for pending in answers:
        rows, length = pending.arrays["x"].shape
        np.testing.assert_array_equal(pending.results["steps"], np.full((rows, length), 1 + length))


# Through a server.


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """'masked', whose LSTM sees masks, and 'open', whose doesn't; each gives a tag for every word as well."""
    for name, masked in (("masked", True), ("open", False)):
        entry = Input((None,), dtype="int32", name="words")
        x = layers.Embedding(20, 4, mask_zero=masked)(entry)
        tags = layers.Dense(3, name="tags")(layers.Bidirectional(layers.GRU(4, return_sequences=True))(x))
        model = Model(entry, [layers.Dense(2, name="class")(layers.LSTM(5)(x)), tags])
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        model.save(tmp_path / "models" / name / "1" / "model.keras")
    return tmp_path / "models"


def ask(stub, name, words, outputs=()):
    model = tensor_pb2.ModelSpec(name=name)
    request = prediction_pb2.PredictRequest(model=model, inputs=[tensors.encode(words, "words")], outputs=outputs)
    return {t.name: tensors.decode(t) for t in stub.Predict(request, timeout=60).outputs}


def test_a_server_answers_as_if_each_request_came_alone(models, start, connect):
    app = start(models, load_model, pad_sequences="mask*", tuning_seconds=0)
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    alone = load_model(models / "masked" / "1" / "model.keras").plan()
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 20, (rng.integers(1, 3), rng.integers(1, 40))).astype("int32") for _ in range(60)]
    inner = alone.steps[0].call.layer.name
    with ThreadPoolExecutor(16) as pool:
        whole = list(pool.map(lambda words: ask(stub, "masked", words), requests))
        parts = list(pool.map(lambda words: ask(stub, "masked", words, ["tags"]), requests))
        within = list(pool.map(lambda words: ask(stub, "masked", words, [f"{inner}:0"]), requests))
    for words, both, tags, embedded in zip(requests, whole, parts, within, strict=True):
        expected = alone.run({"words": words})
        for name, array in expected.items():
            np.testing.assert_allclose(both[name], array, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(tags["tags"], expected["tags"], rtol=1e-5, atol=1e-5)
        assert embedded[f"{inner}:0"].shape == (*words.shape, 4)
    with app.repository.leases.lease("masked") as version:
        assert version.runner.padding(("tags",), alone.input_specs) is not None


def test_a_model_whose_numbers_padding_would_change_is_refused(models, start, connect):
    app = start(models, load_model, pad_sequences="masked, open", tuning_seconds=0)
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    with pytest.raises(grpc.RpcError, match=r"'pad_sequences': sequences can't be padded: .* \(\w+\) \w+") as refused:
        ask(stub, "open", np.ones((1, 3), "int32"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert ask(stub, "masked", np.ones((1, 3), "int32"))["tags"].shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("setting", "model", "pads"),
    [("", "m", False), ("m", "m", True), ("m", "mm", False), ("a, m-*", "m-1", True), ("*", "m", True)],
)
def test_models_are_named_by_patterns(setting, model, pads, tmp_path):
    assert Settings(path=tmp_path, pad_sequences=setting).pads(model) is pads
