"""Inference: admission of arrays, the queue, batching, and execution of a model."""
