"""Estimates: what a run would take, before it begins."""
