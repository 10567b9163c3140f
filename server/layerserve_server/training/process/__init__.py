"""Child processes of runs: how the server starts and monitors them, and the programs that they run.

A run is forked from the warm fork server, so its first step starts a moment after its data arrive. It has a session, an
environment and a log of its own. A small process between the two tells the server how the run ended, and stays when the
server or the fork server ends. On a GPU a run is started by its command.

Several workers are one run: its process forks them, or torchrun starts the run's program that many times. Each worker
computes its rows of a batch, and all compute the loss of the whole batch. So losses and metrics don't depend on the
number of workers. Only the first one has callbacks, checkpoints and events; it broadcasts their decisions after each
batch.
"""
