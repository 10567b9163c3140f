"""The model repository: finds versions on disk; loads, replaces, labels and publishes them."""
