"""Operations as nodes: what Keras writes for masks, for arithmetic on tensors, and for keras.ops."""
