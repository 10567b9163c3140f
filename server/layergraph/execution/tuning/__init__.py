"""Selection of the engine that computes a plan."""
