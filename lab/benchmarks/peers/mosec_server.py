"""mosec (Rust in front of Python processes) with a model in torch and dynamic batching, over HTTP and JSON."""

import os
import sys

import numpy as np
import orjson
from mosec import Server, Worker
from torch_models import INPUTS, in_torch


class Served(Worker):
    """One of the networks."""

    def __init__(self):
        super().__init__()
        self.name = os.environ["MODEL"]
        self.network = in_torch(self.name).run

    def deserialize(self, data):
        """The row of a request."""
        request = orjson.loads(data)
        return {tensor.name: np.array(request[tensor.name], tensor.dtype) for tensor in INPUTS[self.name]}

    def forward(self, rows):
        """All requests that mosec hands over together."""
        results = self.network({name: np.stack([row[name] for row in rows]) for name in rows[0]})
        return [{name: array[row] for name, array in results.items()} for row in range(len(rows))]

    def serialize(self, row):
        """A row as JSON."""
        return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    port, os.environ["MODEL"] = sys.argv[1:]
    # It reads these by itself.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port]
    server = Server()
    server.append_worker(Served, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
