"""Sequences: steps of a model whose recurrent layers go on from the states of the step before.

Begin with `api`. A sequence is a stream (`feed`): it stays on one server, and ends with the stream.
"""
