"""Which engine answers for a version: found by another process, and kept in the state folder.

A child for each version tries the engines, so the server needs no exporter, and an engine that crashes is left out.
Engines are kept in their own formats, by the digest of config, weights, packages and processor. Later starts and other
processes open them while they load the version. One without a file (TorchScript) is built again. Before engines are
first used, eager torch's outputs in the server are compared with those in the child.
"""
