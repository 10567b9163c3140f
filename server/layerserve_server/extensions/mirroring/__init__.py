"""Requests that are mirrored: computed again by shadow versions, or kept in files as samples.

Begin with `extension`. `shadow` and `samples` observe requests (see `services.prediction.observer`).
"""
