"""Selection of the engine that computes a plan.

Way in: `tuner.tune` for the same numbers, `precision.reduce_precision` for near ones. `variants` lists what is built
of each engine, `agreement` compares numbers, `timing` measures, within a `time_budget`. Way out: a `result.Tuning`,
which a plan uses; `engine_folder` keeps it for a later process.
"""
