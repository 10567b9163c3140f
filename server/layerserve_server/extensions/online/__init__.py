"""Online training: sessions of training step by step, each a run whose client is connected to its process.

Read `kind` first, then `session_main`, the process. It has a socket (`session_socket`). The service compares shapes,
types and sizes of a batch as numbers, and passes its bytes on. The process writes each step to a log (`step_log`)
before it applies the step. A checkpoint cuts the log; after a kill it is restored, and the logged steps are applied
again. A step that fails is dropped from the log, and the session goes back in the same way. What is to be published
the process writes as a file, which the server publishes once, by the number of the step (`publications`).
"""
