"""The functional core, in Keras's terms: tensors, nodes, layers and models."""
