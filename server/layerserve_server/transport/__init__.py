"""gRPC transports: bytes in, bytes out. Handlers see the same calls and streams on each of them."""
