"""From arrays that fit a model to its results: admission, the queue, batches, and the model that runs them."""
