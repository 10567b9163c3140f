"""The model repository: finds versions on disk; loads, replaces, labels and publishes them.

Parts that hold one another: `folder` is what is on disk, and `catalogue` what is known of it. `loader` reads versions,
`memory_limit` makes room for them, `rollout` decides which answer, `leases` lends them to calls, and `publisher` adds
new ones. `repository` makes the parts and scans. Calls (`management`, `uploads`) write to the disk, and have every
process scan it. If a version can't be loaded, the one that answered before goes on.

Begin with `repository`, then `version_states` and `rollout`.
"""
