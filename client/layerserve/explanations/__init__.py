"""Explanations: how much each element of the inputs adds to an output.

Begin with `api`. `explanation` has what it returns, and builds and reads the messages.
"""
