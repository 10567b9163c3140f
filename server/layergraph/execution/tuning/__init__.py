"""Which engine computes a plan."""
