"""Callbacks of training runs.

Way in: `table.callback`, for names and configs. Read `callback` first, with the base class; then `monitors`,
`recording` (files), `averaging` and `progress`. Way out: `Callbacks`, whose hooks a run calls.
"""
