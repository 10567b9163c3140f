"""ONNX Runtime, and the export of graphs to ONNX.

Way in: `runtime.onnx_runtime`, an engine of `engines.table`. `export` writes the graph, with our `operations`;
`quantization` makes int8 of it.
"""

import os

# By default, ONNX Runtime reports each session and error to its makers, with names of the graph. It reads this when it
# is imported, which only modules that import this package do.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
