"""TensorFlow Serving's messages, made by `make proto` from the definitions in `proto/`."""
