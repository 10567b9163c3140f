"""From a graph to numbers: the plan of a run, and the arrays that go through it."""
