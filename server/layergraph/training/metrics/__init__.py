"""Metrics.

Way in: `table.metric`, for names and configs. Read `metric` first, with the base classes; `means` are of losses,
`confusion` of counts, `overlap` of regions, `scores` of whole data. Way out: `Metric.update` for each batch,
`Metric.result` for logs.
"""
