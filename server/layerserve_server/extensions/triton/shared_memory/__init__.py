"""Tensors in shared memory of clients on this host, as Triton has them: regions of files in /dev/shm.

`service` registers regions in the `region_table`. A request that names one comes to `placed`,
which reads the inputs before the request is queued, and writes outputs when it is answered, both through `files`.
Regions are in the main process; workers forward such requests to it.

A client chooses the file and may change it at any time. So it is opened for each request, must be the file that was
registered, and is read and written by `pread` and `pwrite`: a mapping of a file that is truncated would end the server.
It must belong to the user of the operating system who runs the client (see `connection_user`).
"""
