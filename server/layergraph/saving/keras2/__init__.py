"""Saving models for Keras 2.

Way in: `config.keras2_model` for the graph, `compile.Keras2Compile` for the arguments of `compile`, `archive` for a
`.keras` of Keras 2. `releases` says what a release can read. Way out: objects for JSON, which `saving.legacy_h5` and
`model_file` write.
"""
