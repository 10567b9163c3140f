"""One file per gRPC service. A method is three verbs: convert in, call, convert out."""
