"""The page: parts of it are replies of gRPC methods as HTML. Imported only if it is served (`--ui`)."""
