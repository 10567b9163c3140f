"""Models of the Keras functional-API guide."""
