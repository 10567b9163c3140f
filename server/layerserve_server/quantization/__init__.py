"""Graphs with 8-bit weights: made by another process, and kept in the state folder."""
