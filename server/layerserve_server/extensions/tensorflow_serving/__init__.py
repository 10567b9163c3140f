"""TensorFlow Serving's services: its clients change their address only."""
