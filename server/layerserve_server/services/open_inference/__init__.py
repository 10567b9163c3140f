"""The Open Inference Protocol (KServe v2), with the parameters and streams of Triton's clients."""
