"""The checkpoints that runs keep: callers list, download, publish and remove them, and compute with their models."""
