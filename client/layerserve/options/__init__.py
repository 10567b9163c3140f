"""The options of training and evaluation, each described once: signatures, flags and messages are made from here."""
