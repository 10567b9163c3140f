"""What computes a version: engines and 8-bit graphs, made by other processes and kept in the state folder.

A child for each version tries the engines, so the server needs no exporter, and an engine that crashes is left out.
Another child makes a graph with 8-bit weights from the exported graph and the calibration rows. Children have limits of
time and memory. Results are kept by the digest of config, weights, packages and processor. Later starts and other
processes open them while they load the version. One without a file (TorchScript) is built again. Before engines are
first used, eager torch's outputs in the server are compared with those in the child. A proof is compared at each load.
"""
