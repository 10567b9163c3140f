"""A session of online training as its client sees it: when its stream is opened again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from layerserve.calls.flow import Close, Open, Pause, Receive, Stream
from layerserve.errors import DataLoss, InvalidArgument, Unavailable
from layerserve.online import feed as online_feed
from layerserve.online.feed import OnlineFeed
from layerserve.online.session import OnlineView
from layerserve.v1 import online_pb2 as pb
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import decode

DELAYS = (0.5, 2.0)


@pytest.mark.parametrize(("session", "pauses"), [(None, []), ("run-1", list(DELAYS))])
def test_only_a_session_that_exists_is_attached_to_again(monkeypatch, session, pauses):
    """A stream that was cut while it opened a session may have opened it: another one would open a second."""

    def signature(*_):
        yield from ()
        return SimpleNamespace(inputs=(), outputs=())

    monkeypatch.setattr(online_feed, "fetch_signature", signature)
    waited = []

    def run(flow):
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                waited.append(step.seconds)
                step = next(flow)
            else:
                step = flow.throw(Unavailable("the server is away"))

    with pytest.raises(Unavailable):
        run(OnlineFeed(None, "m", session, None, None, {}, DELAYS).start())
    assert waited == pauses


class Server:
    """Answers each stream with the messages of its entry; an error in their place ends the stream."""

    def __init__(self, *streams):
        self.streams, self.requests = list(streams), []

    def run(self, flow):
        result = next(flow, None)
        try:
            while True:
                if isinstance(result, Open):
                    self.requests.append(result.requests)
                    self.replies = iter(self.streams.pop(0))
                    result = flow.send(Stream(None))
                elif isinstance(result, Receive):
                    reply = next(self.replies, None)
                    result = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
                else:
                    assert isinstance(result, (Close, Pause))
                    result = flow.send(None)
        except StopIteration as end:
            return end.value


ACCEPTED = pb.TrainOnlineResponse(accepted={"run_id": "run-1", "base": {"name": "m", "version": 3}})
ERROR = {"code": 3, "message": "batch: got no rows"}


def ready(step, **published):
    return pb.TrainOnlineResponse(ready={"step": step, **published})


@pytest.fixture
def feed(monkeypatch):
    def signature(*_):
        yield from ()
        return SimpleNamespace(
            inputs=[TensorSpec("x", (None,), "float32")], outputs=[TensorSpec("y", (None,), "float32")]
        )

    monkeypatch.setattr(online_feed, "fetch_signature", signature)
    return lambda session=None: OnlineFeed(None, "m", session, None, None, {}, DELAYS)


def test_a_session_is_what_the_replies_say(feed):
    feed = feed()
    view = OnlineView(feed)
    server = Server(
        [
            ACCEPTED,
            ready(7, published={"version": 4}, published_step=5),
            pb.TrainOnlineResponse(error=ERROR),  # of no request: of what the session publishes by itself
            pb.TrainOnlineResponse(id=1, stepped={"number": 8, "logs": [{"name": "loss", "value": 0.5}]}),
            pb.TrainOnlineResponse(id=2, published={"version": {"version": 5}, "step": 8}),
        ]
    )
    server.run(feed.start())
    assert (view.id, view.model, view.base_version, view.step) == ("run-1", "m", 3, 7)
    assert (view.version, view.published_step, view.publish_error) == (4, 5, None)
    assert server.run(feed.train(np.ones(2), np.ones(2), None, 0.25)) == {"loss": 0.5}
    assert isinstance(view.publish_error, InvalidArgument)
    assert str(view.publish_error) == "batch: got no rows"
    assert server.run(feed.publish()) == 5
    assert (view.step, view.version, view.published_step, view.publish_error) == (8, 5, 8, None)
    assert repr(view) == "OnlineView('run-1' of 'm': step 8)"
    spec, step, _ = server.requests[0]._messages
    assert spec.WhichOneof("part") == "spec"
    assert (step.id, step.step.number, step.step.learning_rate) == (1, 8, 0.25)


def test_the_error_of_a_request_is_raised_and_the_last_of_a_connection_that_stays_away(feed):
    feed = feed()
    away = [[Unavailable(f"away {number}")] for number in range(len(DELAYS))]
    server = Server([ACCEPTED, ready(0), pb.TrainOnlineResponse(id=1, error=ERROR), Unavailable("cut")], *away)
    server.run(feed.start())
    with pytest.raises(InvalidArgument, match="batch: got no rows"):
        server.run(feed.save())
    with pytest.raises(Unavailable, match="away 1"):
        server.run(feed.save())
    assert [next(iter(requests._messages)).resume.run_id for requests in server.requests[1:]] == ["run-1"] * 2


def test_steps_that_the_server_has_lost_are_an_error(feed):
    feed = feed()
    server = Server([ACCEPTED, ready(0), pb.TrainOnlineResponse(id=1, stepped={"number": 1})], [ready(0)])
    server.run(feed.start())
    server.run(feed.train(np.ones(2), np.ones(2), None, None))
    with pytest.raises(DataLoss, match="session 'run-1': 1 steps were applied, but the server has only 0"):
        server.run(feed.save())


@pytest.mark.parametrize("kind", ["train", "test"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_has_all_its_arrays(feed, kind, weighted):
    feed, answer = feed(), {"train": {"stepped": {"number": 1}}, "test": {"tested": {}}}[kind]
    server = Server([ACCEPTED, ready(0), pb.TrainOnlineResponse(id=1, **answer)])
    server.run(feed.start())
    weight = np.array([0.5, 2.0]) if weighted else None
    more = (None,) if kind == "train" else ()
    server.run(getattr(feed, kind)(np.array([1.0, 2.0]), np.array([3.0, 4.0]), weight, *more))
    _, sent = server.requests[0]._messages
    batch = sent.step if kind == "train" else sent.test
    found = {name: [decode(one).tolist() for one in getattr(batch, name)] for name in ("x", "y", "sample_weight")}
    assert found == {"x": [[1.0, 2.0]], "y": [[3.0, 4.0]], "sample_weight": [[0.5, 2.0]] if weighted else []}
