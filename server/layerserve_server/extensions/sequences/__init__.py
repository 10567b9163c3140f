"""Sequences: states of recurrent layers that are kept between the requests of a caller.

Begin with `extension`. A request that is a step of a sequence comes to `steps`, which finds the sequence in the `table`
and puts the step into the queue of the version's `step_model`: the states are inputs and outputs of that, so steps of
different sequences are batched as requests are. Sequences live in the main process; workers forward steps to it.
"""
