"""Explanations: how much each element of the inputs, or of a tensor inside of the graph, adds to an output.

Begin with `extension`. `service` reads requests as Predict does, and `job` computes in a child process: that needs
a multiple of the time and memory of a prediction, and can be ended when its caller leaves.
"""
