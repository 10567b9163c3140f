"""Scoring of files: `layerserve score MODEL IN OUT`.

Way in: `command`, and below it `job.score`. `fragments` divides the input into pieces that are scored one by one, each
into a file of its own (`parts`). `worker` is a process that does so: it reads batches (`readers`), finds the rows that
can't be scored (`rows`), and writes results (`writers`). `manifest` says which parts are done, and of what.
"""
