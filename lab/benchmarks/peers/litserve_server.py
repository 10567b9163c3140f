"""LitServe with a model in torch and dynamic batching, over HTTP and JSON, which is all that it speaks."""

import sys

import litserve
import numpy as np
from torch_models import INPUTS, in_torch


class Served(litserve.LitAPI):
    """One of the networks."""

    def setup(self, device):
        self.name = sys.argv[2]
        self.network = in_torch(self.name).run

    def decode_request(self, request):
        """The row of a request."""
        return {tensor.name: np.array(request[tensor.name], tensor.dtype) for tensor in INPUTS[self.name]}

    def batch(self, rows):
        """All requests that LitServe hands over together."""
        return {tensor.name: np.stack([row[tensor.name] for row in rows]) for tensor in INPUTS[self.name]}

    def predict(self, arrays):
        """One batch."""
        return self.network(arrays)

    def unbatch(self, results):
        """A row for each request."""
        rows = len(next(iter(results.values())))
        return [{name: array[row] for name, array in results.items()} for row in range(rows)]

    def encode_response(self, row):
        """A row as JSON."""
        return {name: array.tolist() for name, array in row.items()}


if __name__ == "__main__":
    api = Served(max_batch_size=64, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
