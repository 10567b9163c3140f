"""Steps by unary calls and on streams: their numbers, order and batches, and what a step that fails leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve import Client, DeadlineExceeded, MissingInput, SequenceLost, Unavailable, VersionNotFound
from layerserve.v1 import prediction_pb2 as pb
from summed_sequences import outputs, request
from tokens import entry

LOST, INVALID = "must specify the START flag on the first request of the sequence", grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(params=["grpcio", "native"])
def app(request, put_sum, start_sum):
    put_sum()
    return start_sum(transport=request.param)


def test_a_sequence_goes_on_from_its_last_step_until_it_ends(app, calls, table_of, wait_until):
    one = calls(app)
    assert one.step("a", 1, 2, start=True) == [1, 3]
    assert one.step("b", 10, start=True) == [10]
    assert one.step("a", 3) == [6]
    assert one.step("a", 4, end=True) == [10]
    status, text = one.refused("a", 1)
    assert (status, LOST in text) == (INVALID, True)
    assert one.step("b", 1, start=True) == [1]
    assert one.step("b", 1, end=True) == [2]
    # The reply is sent before that.
    wait_until(lambda: (table_of(app).all(), table_of(app)._size) == ([], 0))


@pytest.fixture
def own_thread(put_sum, start_sum):
    """A server whose batches don't run in the thread that receives calls."""
    put_sum(settings="nice = 1\n[sequences]\n")
    return start_sum()


def test_steps_of_different_sequences_are_batched_and_those_of_one_are_not(own_thread, calls, models, wait_until):
    app = own_thread
    one = calls(app)
    for id in "abc":
        one.step(id, 1, start=True)
    model = models[0]
    model.gate.clear()
    begun = len(model.batches)
    held = one.begin("a", 1)
    wait_until(lambda: len(model.batches) > begun)
    waiting = [one.begin(id, 1) for id in "abca"]
    with app.repository.leases.lease("sum") as version:
        queue = version.parts["sequences"].queue(version)
        wait_until(lambda: queue.queued_requests == 2)
    model.gate.set()
    assert [outputs(call.result(30)) for call in (held, *waiting)] == [[2], [3], [2], [2], [4]]
    # The next step of a sequence joins the batch after that of the one before.
    assert model.batches[begun:] == [1, 3, 1]
    for id in "abc":
        one.step(id, 0, end=True)


def test_a_step_that_fails_or_is_cancelled_leaves_the_states_and_says_so(own_thread, calls, models, wait_until):
    one = calls(own_thread)
    assert one.refused("a", -1, start=True)[1].endswith("expected 0 or more; the sequence is as before this step")
    assert LOST in one.refused("a", 1)[1]
    one.step("a", 5, start=True)
    assert one.refused("a", -1) == (
        INVALID,
        "input 'x': got -1, expected 0 or more; the sequence is as before this step",
    )
    assert one.refused("a")[1].startswith(
        "input 'x': got no timestep, expected at least one; the sequence is as before"
    )
    model = models[0]
    begun = len(model.batches)
    model.gate.clear()
    held = one.begin("a", 7)
    wait_until(lambda: len(model.batches) > begun)
    held.cancel()
    after = one.begin("a", 1)
    model.gate.set()
    assert outputs(after.result(30)) == [6]
    # One that would begin it anew, and fails, doesn't.
    assert one.refused("a", -1, start=True)[0] is INVALID
    assert one.step("a", 1, end=True) == [7]


def test_the_number_of_rows_stays(app, calls):
    one = calls(app)
    one.step("a", 5, start=True)
    two = request("a", 1)
    two.inputs[0].shape[0] = 2
    two.inputs[0].data *= 2
    error = one._call.future(two).exception(30)
    assert error.details().startswith("got 2 rows, expected 1, as in the first step of the sequence")
    one.step("a", 1, end=True)


def test_callers_have_sequences_of_their_own_and_need_the_right_on_the_model(put_sum, start_sum, calls, tmp_path):
    put_sum()
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        entry("ann", "rights = ['predict']")
        + entry("ben", "rights = ['predict']")
        + entry("eve", "rights = ['predict']\nmodels = ['other']")
    )
    app = start_sum(tokens=tokens)
    ann, ben, eve = (calls(app, name) for name in ("ann", "ben", "eve"))
    ann.step("a", 1, start=True)
    assert LOST in ben.refused("a", 1)[1]
    assert ben.step("a", 10, start=True) == [10]
    assert eve.refused("a", 1, start=True)[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (ann.step("a", 1, end=True), ben.step("a", 1, end=True)) == ([2], [11])


def test_a_sequence_keeps_its_version_until_that_is_deleted(put_sum, start_sum, calls, table_of, wait_until):
    first = put_sum(1)
    app = start_sum(poll_seconds=0.05)
    one = calls(app)
    one.step("a", 1, start=True)
    one.step("b", 1, start=True)
    put_sum(2, offset=100)
    wait_until(lambda: any(found.version == 2 and found.default for found in app.repository.catalogue.describe("sum")))
    assert one.step("a", 1) == [2]
    assert one.step("c", 1, start=True) == [101]
    # Another version than its own is refused; its own may be named.
    assert "expected version 1, with which the sequence began" in one.refused("a", 1, version=2)[1]
    assert one.step("a", 1, version=1) == [3]
    assert one.step("b", 1, start=True, end=True) == [101]
    shutil.rmtree(first)
    wait_until(lambda: len(app.repository.catalogue.describe("sum")) == 1)
    status, text = one.refused("a", 1)
    assert (status, text.partition("; ")[2]) == (
        INVALID,
        "it was dropped: its version was deleted or unloaded, after 3 steps of it",
    )
    one.step("c", 1, end=True)
    wait_until(lambda: not table_of(app).all())


def test_a_server_that_drains_ends_its_sequences(app, calls, table_of):
    one = calls(app)
    one.step("a", 1, start=True)
    app.drain()
    status, text = one.refused("a", 1)
    assert (status, text) == (
        grpc.StatusCode.UNAVAILABLE,
        "sequence a of model 'sum' has ended: the server is draining, after 1 steps of it; begin it elsewhere",
    )
    assert one.refused("b", 1, start=True)[0] is grpc.StatusCode.UNAVAILABLE
    assert (table_of(app).all(), table_of(app)._size) == ([], 0)


def test_a_stream_has_a_sequence_that_ends_with_it(app, connect, table_of, wait_until):
    call = connect(app).stream_stream(
        "/layerserve.v1.PredictionService/PredictStream",
        pb.PredictStreamRequest.SerializeToString,
        pb.PredictStreamResponse.FromString,
    )
    given = [request("", 1, start=True), request("", 2), request("", -1), request("", 3)]
    for number, one in enumerate(given):
        one.id = str(number)
    replies = list(call(pb.PredictStreamRequest(request=one) for one in given))
    found = {reply.response.id: outputs(reply.response) for reply in replies if reply.HasField("response")}
    assert found == {"0": [1], "1": [3], "3": [6]}
    assert next(reply.error.message for reply in replies if reply.HasField("error")).endswith("as before this step")
    wait_until(lambda: not table_of(app).all())


def test_the_client_has_a_sequence_for_a_block(app, table_of, wait_until):
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        with client.sequence("sum", version=2) as none, pytest.raises(VersionNotFound):
            none.predict([[1]])
        with client.sequence("sum") as one, client.sequence("sum", version=1, key="someone") as two:
            assert one.predict([[1, 2]]).tolist() == [[1, 3]]
            assert two.predict([[10]]).tolist() == [[10]]
            assert one.predict([[3]], outputs=["y"])["y"].tolist() == [[6]]
            with pytest.raises(ValueError, match="as before this step"):
                one.predict([[-1]])
            assert (one.predict([[1]]).tolist(), one.steps, one.version) == ([[7]], 3, 1)
            app.drain()
            with pytest.raises(Unavailable, match="the server is draining"):
                one.predict([[1]])
            with pytest.raises(SequenceLost, match=r"the sequence is lost: .* draining.*; begin another one"):
                one.predict([[1]])
        wait_until(lambda: not table_of(app).all())


def test_a_sequence_of_the_client_is_lost_with_a_step_that_got_no_reply(own_thread, models, table_of, wait_until):
    with Client(f"127.0.0.1:{own_thread.grpc_port}", timeout=60) as client, client.sequence("sum") as one:
        one.predict([[1]])
        models[0].gate.clear()
        with pytest.raises(DeadlineExceeded):
            one.predict([[1]], timeout=0.05)
        models[0].gate.set()
        with pytest.raises(
            SequenceLost, match=r"the sequence is lost: its stream has ended: no reply within 0\.05 s; "
        ):
            one.predict([[1]])
    with pytest.raises(ValueError, match="the sequence was ended"):
        one.predict([[1]])
    wait_until(lambda: not table_of(own_thread).all())


@pytest.mark.parametrize(
    ("settings", "fields", "reason"),
    [
        ("", {}, "its settings have no [sequences]"),
        ("[sequences]\nenabled = false\n", {"stateful": True}, "its settings have no [sequences]"),
        ("", {"stateful": True, "refused": "reads both ways"}, "layer 'back' (Bidirectional) reads both ways"),
        ("precision = 'bfloat16'", {"stateful": True}, "steps are computed in float32 only"),
    ],
)
def test_a_model_without_sequences_says_why(put_sum, start_sum, calls, settings, fields, reason):
    put_sum(settings=settings, **fields)
    one = calls(start_sum())
    status, text = one.refused("a", 1, start=True)
    assert (status, "keeps no states between requests" in text, reason in text) == (INVALID, True, True)


def test_a_stateful_file_needs_no_settings(put_sum, start_sum, calls):
    put_sum(settings="", stateful=True)
    one = calls(start_sum())
    assert (one.step("a", 1, start=True), one.step("a", 1, end=True)) == ([1], [2])


def test_a_version_whose_steps_are_asked_for_and_impossible_fails_to_load(put_sum, start_sum):
    put_sum(refused="reads both ways")
    described = start_sum().repository.catalogue.describe("sum")[0]
    assert (
        described.reason
        == "setting 'sequences': the model can't be stepped: layer 'back' (Bidirectional) reads both ways"
    )


def test_other_tensors_than_the_outputs_and_ids_without_characters_are_refused(app, calls):
    one = calls(app)
    inner = request("a", 1, start=True)
    inner.outputs.append("hidden")
    assert "unknown output 'hidden'" in one._call.future(inner).exception(30).details()
    assert "sequence.id: got none" in one.refused("", 1, start=True)[1]
    assert "sequence.id: got 257 characters, expected at most 256" in one.refused("a" * 257, 1)[1]


def test_steps_of_a_trained_model_are_its_predictions(put, start, tmp_path: Path):
    x = Input((10, 3), name="x")
    h = layers.LSTM(4, return_sequences=True)(x)
    model = Model(x, layers.Dense(2)(layers.GRU(3, return_sequences=True)(h)))
    (put("rnn").parents[1] / "layerserve.toml").write_text("[sequences]\n")
    app = start(load=lambda *_: model)
    data = np.random.default_rng(0).random((2, 10, 3), "float32")
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client, client.sequence("rnn") as steps:
        made = [steps.predict(data[:, start:stop]) for start, stop in ((0, 1), (1, 4), (4, 10))]
    np.testing.assert_allclose(np.concatenate(made, 1), model.predict(data), atol=1e-6)


def test_inputs_that_make_the_first_states_are_needed_for_the_first_step_only(put, start, table_of, wait_until):
    x, begin = Input((None, 3), name="x"), Input((4,), name="begin")
    model = Model([x, begin], layers.GRU(4, return_sequences=True)(x, initial_state=layers.Dense(4)(begin)))
    (put("rnn").parents[1] / "layerserve.toml").write_text("[sequences]\n")
    app = start(load=lambda *_: model)
    random = np.random.default_rng(0)
    data, first = random.random((2, 6, 3), "float32"), random.random((2, 4), "float32")
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client, client.sequence("rnn") as steps:
        with pytest.raises(MissingInput, match="missing input 'begin'"):
            steps.predict({"x": data[:, :1]})
        made = [steps.predict({"x": data[:, :1], "begin": first}), steps.predict({"x": data[:, 1:4]})]
        made.append(steps.predict({"x": data[:, 4:], "begin": first}))
    np.testing.assert_allclose(np.concatenate(made, 1), model.predict([data, first]), atol=1e-6)
    wait_until(lambda: not table_of(app).all())
