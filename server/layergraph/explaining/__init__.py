"""Explanations: how much each element of an input, or of a tensor inside of the graph, adds to an output.

Way in: `integrated_gradients(model, ...)`. `varied_plan` divides the calls of an output into those that are computed
once and those that depend on the explained tensors, which `path` computes along a straight line, with gradients. Way
out: an `Attribution`, or ExplanationError with the tensor and the reason.
"""
