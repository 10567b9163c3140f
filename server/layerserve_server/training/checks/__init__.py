"""Checks of a training request before a run: one list, which raises the first problem or collects all (`run_checks`).

`request_checks` needs the model's inputs and outputs only; `model_checks` needs the model, in a child process.
"""
