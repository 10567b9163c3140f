"""Engines: what can carry a plan out besides torch, call by call."""
