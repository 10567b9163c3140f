"""Operations of TensorFlow in files of tf.keras."""
