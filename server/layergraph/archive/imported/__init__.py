"""A model file as another process has read it: config, index of the arrays, and the arrays that the model needs.

The process that reads the file writes a folder: `writing.describe` the config and the index, then `write_arrays` the
arrays that the process with the model asks for, in the memory order of their weights. `opening.open_import` opens the
folder as if it were the file. Its arrays are mapped: all processes that load the model share their pages, and no parser
written in C is needed again.

The reading process may be compromised by its file. So the content of the folder is as untrusted as the file's.
"""
