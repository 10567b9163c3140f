"""Further processes that answer Predict on the same port: started and watched, with weights in shared memory."""
