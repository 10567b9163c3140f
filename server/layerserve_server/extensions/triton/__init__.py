"""What Triton has beside the Open Inference Protocol, for its clients and dashboards.

`service` answers its methods for operators, `rest` has their paths, `metrics` the server's metrics under its names, and
`words` its words for errors. `shared_memory` is for tensors in shared memory of clients.
"""
