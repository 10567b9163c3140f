"""Execution of a graph: the plan of a run, its steps, and the arrays it takes and returns.

Way in: `Plan(model, outputs)`. `layout` expands nested models into steps, `liveness` leaves out what isn't needed,
and `passes/` makes fewer and larger calls of them (`program`). `EagerPlan` computes them with torch; `engines/`
compute the traced graph; `tuning/` chooses between them. Way out: `Plan.run` for arrays, `EagerPlan.forward` for
gradients.
"""
