"""Checks of a training request before a run: one list (`run_checks`), which raises the first problem or collects all."""
