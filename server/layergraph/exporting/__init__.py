"""Files of other formats that compute what a plan computes: ONNX, and torch.export's `.pt2`.

Way in: `formats.write_compared`, with one of its exporters. `cases` draws the inputs to compare, `onnx_file` and
`torch_file` write and run a file, with `simpler` operations that both formats have. `rounding` tells differences that
are due to rounding. Way out: the file, and a `Comparison`.
"""
