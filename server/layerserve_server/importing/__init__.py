"""Model files are read by another process, in a sandbox, and mapped by those that serve them.

No parser written in C runs in a serving process. A process without torch forks a child for each file (`job`). The
child gives up all rights but to read that file (`sandbox`), and has limits of time and memory. It describes the file,
the server builds the graph and compares all shapes, and then the child writes the arrays that the model needs.

The result is kept by the digest of the file (`imports`), and every process that serves the model maps it. The server
trusts it no more than the file: a hostile file may have taken over the child.
"""
