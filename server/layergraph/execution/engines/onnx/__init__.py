"""ONNX Runtime, and the export of graphs to ONNX."""
