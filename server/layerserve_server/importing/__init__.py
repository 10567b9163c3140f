"""Model files are read by another process, in a sandbox, and mapped by those that serve them."""
