"""The functional core, in Keras's terms: tensors, nodes, layers and models.

Way in: `Input`, then `Layer.__call__` on symbolic tensors. The call becomes an `Invocation`, whose outputs' shapes
and masks `shape_inference` finds by running it on `meta`; a `Node` records it. `layer` is read after `layer_weights`
and `inbound_nodes`; `call` has layers written with Keras's `call`. Way out: a `Functional`, whose `graph` has the
nodes between inputs and outputs.
"""
