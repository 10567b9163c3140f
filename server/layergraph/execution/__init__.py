"""Execution of a graph: the plan of a run, its steps, and the arrays it takes and returns."""
