"""Training by Keras's formulas: losses, metrics, optimizers and the training loop.

Way in: `Trainer.fit`. `compile` matches losses and metrics to outputs, `data_adapter` arrays to inputs and labels,
`streams` batches. A `Fit` runs the epochs with callbacks and checkpoints, a `Loop` each batch. `stepwise` trains
without epochs. Way out: the weights, and a `History`. Loading a checkpoint into a model is `restored_model`.
"""
