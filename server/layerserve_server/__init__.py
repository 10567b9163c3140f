"""The layerserve server: layergraph behind gRPC.

Each stage has one representation of the data, converted at one border. Tensors are protobuf in `services` and
the shared codec, NumPy arrays in admission and batching, and torch tensors in the runner only.
"""

import os

# By default torch's threads spin for 4 ms after an operation and may block the core of a request's thread: a call of a
# small model 20 ms after the last one then takes 12 ms. With this spin count (a quarter of a millisecond) it takes
# 1.4 ms, and threads are still awake for a call that follows immediately. The variable is read when torch is imported,
# which modules of this package do.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# grpcio's core would write a line for each handshake that fails, whatever the log's level and format are, and clients
# may begin any number. The variable is read when grpcio is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
