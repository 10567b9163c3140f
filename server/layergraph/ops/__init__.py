"""Operations as nodes: what keras.ops makes of `x != 0` or `x + y` in a functional model."""
