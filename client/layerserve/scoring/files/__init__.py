"""Scoring of files: `layerserve score MODEL IN OUT`.

Way in: `job.Job`. `fragments` finds the input, and divides it into pieces that are scored one by one, each into a file
of its own. `worker` is a process that does so: it reads batches (`readers`), finds the rows that can't be scored
(`rows`), and writes results (`writers`). `result` has the files that are made, and `manifest` says which parts are
done, and of what.
"""
