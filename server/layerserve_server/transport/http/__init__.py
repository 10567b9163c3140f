"""HTTP: requests become calls of the same handlers as gRPC's. Imported only if there is a port for HTTP.

A route names a gRPC method and translates its messages (`exchange`). So rights, limits, templates, batches and errors
are gRPC's.
"""
