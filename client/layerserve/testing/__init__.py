"""A fake server for testing code that uses the client: real gRPC on a free port, with Python functions as models.

    with FakeServer() as server:
        server.add_model("double", lambda x: {"y": 2 * x["x"]}, inputs=[TensorSpec("x", (None, 3), "float32")],
                         outputs=[TensorSpec("y", (None, 3), "float32")])
        with Client(server.address) as client:
            assert client.predict("double", [[1, 2, 3]]).tolist() == [[2, 4, 6]]

Calls are recorded in `server.calls`; `server.fail_next(Overloaded("queue is full"))` makes the next call fail.
"""

from layerserve.testing.fake_model import FakeModel
from layerserve.testing.fake_run import FakeRun
from layerserve.testing.fake_server import FakeServer

__all__ = ["FakeModel", "FakeRun", "FakeServer"]
