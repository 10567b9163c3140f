"""Optimizers and learning-rate schedules.

Way in: `table.optimizer`, for names and configs. Read `base_optimizer` (the interface), `stateful_optimizer`,
`optimizer` (a step), then a formula of `elementwise`. Around them are `loss_scale` and `multi_optimizer`. Way out:
`apply`, called by the loop.
"""
