"""Files of other formats that compute what a plan computes: ONNX, and torch.export's `.pt2`."""
