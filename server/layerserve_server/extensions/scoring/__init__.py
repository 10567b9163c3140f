"""Scoring of datasets: the job of the command `score` as a run of the service.

Read `kind` first. `service` begins runs. A run has a copy of the version, with which `scoring_job` makes the job: in a
child process, to find out before the run is queued what doesn't fit, and in the run's process (`program`).
"""
