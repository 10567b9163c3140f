"""Graphs, series and tensors as drawings for templates. The extension `page` uses it."""
