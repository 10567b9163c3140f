"""Checkpoints that training runs keep."""
