"""Sessions of training step by step: the frames, the log of steps, the program of a session's process, publications."""
