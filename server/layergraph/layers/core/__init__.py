"""Core layers. Read `basic` first; `einsum` has EinsumDense, `python_function` Lambda."""
