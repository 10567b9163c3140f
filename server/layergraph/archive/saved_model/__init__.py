"""SavedModel folders and checkpoints of TensorFlow, read without TensorFlow. All input is untrusted.

Way in: `opening.open_saved_model`. It reads the layers' configs (`metadata`) and the index of the variables
(`bundle`, in blocks of `table` and `snappy`). `weights` finds the variables of each layer through the `object_graph`;
`constants` has what is stored in graphs, as vocabularies are. Way out: a `ModelArchive`.
"""
