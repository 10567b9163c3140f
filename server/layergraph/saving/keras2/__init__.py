"""Files of Keras 2."""
