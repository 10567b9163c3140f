"""gRPC server reflection: generic tools such as grpcurl learn from it which services and messages there are."""
