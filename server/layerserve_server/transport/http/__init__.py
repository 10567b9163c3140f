"""HTTP: requests become calls of the same handlers as gRPC's. Imported only if there is a port for HTTP."""
