"""Reads configs of all generations of Keras as one kind of graph.

Way in: `reader.read_graph`, for the layers and their calls, and `compiled.compile_config`, for the arguments of
`compile`. `keras_versions` says what each release does in its own way; `keras1`, `keras2`, `tfjs` and
`graph_operations` bring their configs into Keras 3's form. `options` declares and validates the fields of all classes
with a config. Way out: a `spec.GraphSpec`, for `models.from_config`.
"""
