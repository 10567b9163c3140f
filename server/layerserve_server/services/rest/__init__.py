"""The REST forms of the protocols: JSON to messages of gRPC methods, and back. Imported only if HTTP is served."""
