"""The gRPC services, one module each. A handler converts the request, calls the code behind it, converts the reply."""
