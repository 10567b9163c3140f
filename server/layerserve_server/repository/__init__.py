"""The model repository: finds versions on disk; loads, replaces, labels and publishes them.

`repository` scans the disk, `loading` loads a version, `catalogue` has what is known of the models, and `loaded_models`
leases a version to a request. Calls (`management`) write to the disk and have every process scan it. If a version can't
be loaded, the one that answered before goes on.
"""
