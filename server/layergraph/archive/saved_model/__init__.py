"""SavedModel folders and checkpoints of TensorFlow, read without TensorFlow. All input is untrusted."""
