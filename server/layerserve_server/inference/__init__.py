"""Inference: admission of arrays, the queue, batching, and execution of a model.

`admission` checks tensors, `batching` decides what runs next, and `runner` computes it. A queued request has its own
reply and its own clock. One that was cancelled, or whose deadline has passed, is dropped when a batch is formed. A full
queue refuses at once.

The queue is fair: by priority, then by rows in turns between clients, then in order of arrival. A request larger than
the largest batch is split and joined again. A model whose outputs don't have the rows first runs request by request.
"""
