"""ONNX Runtime, and the export of graphs to ONNX.

Way in: `runtime.onnx_runtime`, an engine of `engines.table`. `export` writes the graph, with our `operations`;
`quantization` makes int8 of it.
"""
