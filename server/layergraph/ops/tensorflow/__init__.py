"""Operations of TensorFlow in files of tf.keras, where keras.ops has none with the same numbers. They are made as those
of `ops` are, and listed in its `table`.
"""
