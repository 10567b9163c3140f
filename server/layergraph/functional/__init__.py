"""The functional core in Keras's words: tensors, nodes, layers and models."""
