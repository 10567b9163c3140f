"""ONNX Runtime, and how the graph is written for it."""
