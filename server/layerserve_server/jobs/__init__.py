"""Jobs: work in child processes, which may crash, hang or take memory without harm to the server.

Two processes fork a child for each job, in milliseconds: one without torch ("cold"), and one that has imported torch
and what training needs ("warm"). `table` lists all jobs. `jobs` is what the server calls; `fork_server` is its handle
of such a process, `program` the process's program. Both ends talk through a `channel`.
"""
