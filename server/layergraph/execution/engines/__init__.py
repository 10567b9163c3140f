"""Engines: alternatives to eager torch for executing a plan.

No engine is trusted. Before it is timed, it must give eager torch's numbers on random rows, of other counts than it was
made with. It is checked again for each new length of an open axis, and eager torch answers meanwhile. Eager torch also
computes whatever an engine refuses or fails at.
"""
