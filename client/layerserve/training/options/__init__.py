"""The options of training and evaluation, from which signatures, flags and messages are made."""
