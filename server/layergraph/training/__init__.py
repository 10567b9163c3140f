"""Training by Keras's formulas: losses, metrics, optimizers and the training loop."""
