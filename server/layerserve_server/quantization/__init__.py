"""Graphs with 8-bit weights: made by another process, and kept in the state folder.

A child for each graph gets the exported graph and the calibration rows, and has limits of time and memory. Results are
kept by the digest of config, weights, calibration, packages and processor. The proof is compared at each load.
"""
