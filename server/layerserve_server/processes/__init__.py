"""Worker processes that serve Predict on the same port, with weights in shared memory, and their supervisor."""
