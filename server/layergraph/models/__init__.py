"""Models: what a user makes, reads and saves, on top of graph, execution, training and files."""
